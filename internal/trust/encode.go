package trust

import (
	"encoding/json"
	"fmt"
)

// Encode returns the metadata as JSON, without the manifest. More than
// [MaxMetadata] bytes are an error.
func (b Metadata) Encode() ([]byte, error) {
	raw, err := json.Marshal(b)
	if err == nil && len(raw) > MaxMetadata {
		err = fmt.Errorf("the metadata takes more than %d bytes (hint: pin a newer root)", MaxMetadata)
	}
	return raw, err
}

// Decode reads what Encode made, and adds the manifest.
func Decode(raw, manifest []byte) (Metadata, error) {
	var b Metadata
	if err := json.Unmarshal(raw, &b); err != nil {
		return b, fmt.Errorf("the metadata is damaged")
	}
	b.Manifest = manifest
	return b, nil
}

// CheckRoot returns an error for a root that cannot be a pin, because too few of its
// own keys have signed it. An expired root can: newer ones may follow it.
func CheckRoot(b []byte) (Signed, error) {
	w, err := Client{Pin: b}.start()
	if err != nil {
		return Signed{}, err
	}
	root := w.set.Root.Signed
	return Signed{RoleRoot, root.Version, root.Expires}, nil
}
