// Package v1 has the constants of Sigstore's protobuf-specs v0.5.0 that sigstore's package
// signature uses, without protocol buffers.
//
// go-tuf verifies signatures by that package, which names algorithms by these constants and
// encodes none of them. The original registers its messages with the protobuf library,
// which calls methods by their names: then the linker keeps each exported method of each
// type, and every program that verifies signatures is 4 MB larger. Where a later version of
// sigstore needs more, the build fails, and it belongs here.
//
// Copyright 2022 The Sigstore Authors, under the licence in LICENSE. Changed as above.
package v1

// HashAlgorithm is the hash of an algorithm.
type HashAlgorithm int32

// The constants have the numbers of the original.
const (
	HashAlgorithm_HASH_ALGORITHM_UNSPECIFIED HashAlgorithm = 0
	HashAlgorithm_SHA2_256                   HashAlgorithm = 1
	HashAlgorithm_SHA2_384                   HashAlgorithm = 2
	HashAlgorithm_SHA2_512                   HashAlgorithm = 3
	HashAlgorithm_SHA3_256                   HashAlgorithm = 4
	HashAlgorithm_SHA3_384                   HashAlgorithm = 5
)

var hashAlgorithmNames = map[HashAlgorithm]string{
	0: "HASH_ALGORITHM_UNSPECIFIED",
	1: "SHA2_256",
	2: "SHA2_384",
	3: "SHA2_512",
	4: "SHA3_256",
	5: "SHA3_384",
}

func (x HashAlgorithm) String() string { return hashAlgorithmNames[x] }

// PublicKeyDetails is a kind of key with its algorithm.
type PublicKeyDetails int32

// The constants have the numbers of the original.
const (
	PublicKeyDetails_PUBLIC_KEY_DETAILS_UNSPECIFIED PublicKeyDetails = 0
	PublicKeyDetails_PKCS1_RSA_PKCS1V5              PublicKeyDetails = 1
	PublicKeyDetails_PKCS1_RSA_PSS                  PublicKeyDetails = 2
	PublicKeyDetails_PKIX_RSA_PKCS1V5               PublicKeyDetails = 3
	PublicKeyDetails_PKIX_RSA_PSS                   PublicKeyDetails = 4
	PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256  PublicKeyDetails = 9
	PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256  PublicKeyDetails = 10
	PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256  PublicKeyDetails = 11
	PublicKeyDetails_PKIX_RSA_PSS_2048_SHA256       PublicKeyDetails = 16
	PublicKeyDetails_PKIX_RSA_PSS_3072_SHA256       PublicKeyDetails = 17
	PublicKeyDetails_PKIX_RSA_PSS_4096_SHA256       PublicKeyDetails = 18
	PublicKeyDetails_PKIX_ECDSA_P256_HMAC_SHA_256   PublicKeyDetails = 6
	PublicKeyDetails_PKIX_ECDSA_P256_SHA_256        PublicKeyDetails = 5
	PublicKeyDetails_PKIX_ECDSA_P384_SHA_384        PublicKeyDetails = 12
	PublicKeyDetails_PKIX_ECDSA_P521_SHA_512        PublicKeyDetails = 13
	PublicKeyDetails_PKIX_ED25519                   PublicKeyDetails = 7
	PublicKeyDetails_PKIX_ED25519_PH                PublicKeyDetails = 8
	PublicKeyDetails_PKIX_ECDSA_P384_SHA_256        PublicKeyDetails = 19
	PublicKeyDetails_PKIX_ECDSA_P521_SHA_256        PublicKeyDetails = 20
	PublicKeyDetails_LMS_SHA256                     PublicKeyDetails = 14
	PublicKeyDetails_LMOTS_SHA256                   PublicKeyDetails = 15
	PublicKeyDetails_ML_DSA_65                      PublicKeyDetails = 21
	PublicKeyDetails_ML_DSA_87                      PublicKeyDetails = 22
)

var publicKeyDetailsNames = map[PublicKeyDetails]string{
	0:  "PUBLIC_KEY_DETAILS_UNSPECIFIED",
	1:  "PKCS1_RSA_PKCS1V5",
	2:  "PKCS1_RSA_PSS",
	3:  "PKIX_RSA_PKCS1V5",
	4:  "PKIX_RSA_PSS",
	9:  "PKIX_RSA_PKCS1V15_2048_SHA256",
	10: "PKIX_RSA_PKCS1V15_3072_SHA256",
	11: "PKIX_RSA_PKCS1V15_4096_SHA256",
	16: "PKIX_RSA_PSS_2048_SHA256",
	17: "PKIX_RSA_PSS_3072_SHA256",
	18: "PKIX_RSA_PSS_4096_SHA256",
	6:  "PKIX_ECDSA_P256_HMAC_SHA_256",
	5:  "PKIX_ECDSA_P256_SHA_256",
	12: "PKIX_ECDSA_P384_SHA_384",
	13: "PKIX_ECDSA_P521_SHA_512",
	7:  "PKIX_ED25519",
	8:  "PKIX_ED25519_PH",
	19: "PKIX_ECDSA_P384_SHA_256",
	20: "PKIX_ECDSA_P521_SHA_256",
	14: "LMS_SHA256",
	15: "LMOTS_SHA256",
	21: "ML_DSA_65",
	22: "ML_DSA_87",
}

func (x PublicKeyDetails) String() string { return publicKeyDetailsNames[x] }
