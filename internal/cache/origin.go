package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"unicode"
)

// origin tells where a partial download comes from. It stands beside it.
type origin struct {
	URL          string `json:"url"` // sha256 of it, for it may hold credentials
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"last_modified,omitempty"`
	Size         int64  `json:"size"`
}

// parseOrigin reads an origin by which a download can be resumed.
func parseOrigin(text []byte) (origin, error) {
	var o origin
	if err := json.Unmarshal(text, &o); err != nil {
		return origin{}, err
	}
	// net/http refuses to send a header with a control character.
	if v := o.validator(); v == "" || o.Size <= 0 || strings.ContainsFunc(v, unicode.IsControl) {
		return origin{}, errors.New("the server does not support resuming")
	}
	return o, nil
}

// validator is what If-Range may carry (RFC 9110, 13.1.5): a strong ETag, or a
// Last-Modified. "" when the server gave neither; then nothing can be resumed.
func (o origin) validator() string {
	if o.ETag == "" {
		return o.LastModified
	}
	if strings.HasPrefix(o.ETag, "W/") {
		return ""
	}
	return o.ETag
}

func key(u *url.URL) string {
	sum := sha256.Sum256([]byte(u.String()))
	return hex.EncodeToString(sum[:])
}
