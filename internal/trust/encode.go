package trust

import (
	"encoding/json"
	"fmt"
)

// Encode is the bundle as one role hands it to the next, but for the manifest.
func (b Metadata) Encode() ([]byte, error) {
	raw, err := json.Marshal(b)
	if err == nil && len(raw) > MaxMetadata {
		err = fmt.Errorf("the metadata takes more than %d bytes (hint: pin a newer root)", MaxMetadata)
	}
	return raw, err
}

// Decode reads what Encode made, with the manifest that came beside it.
func Decode(raw, manifest []byte) (Metadata, error) {
	var b Metadata
	if err := json.Unmarshal(raw, &b); err != nil {
		return b, fmt.Errorf("the metadata is damaged")
	}
	b.Manifest = manifest
	return b, nil
}

// CheckRoot refuses what cannot be a pin: a root that is not signed by as many of
// its own keys as it asks for. One that has expired can be: newer ones may follow it.
func CheckRoot(b []byte) (Signed, error) {
	w, err := Client{Pin: b}.start()
	if err != nil {
		return Signed{}, err
	}
	root := w.set.Root.Signed
	return Signed{RoleRoot, root.Version, root.Expires}, nil
}
