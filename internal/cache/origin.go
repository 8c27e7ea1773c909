package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
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

// parseOrigin reads an origin by which a download can be gone on with.
func parseOrigin(text []byte) (origin, error) {
	var o origin
	if err := json.Unmarshal(text, &o); err != nil {
		return origin{}, err
	}
	// net/http refuses a request for a control character in a header, this one for ever.
	if v := o.validator(); v == "" || o.Size <= 0 || strings.ContainsFunc(v, unicode.IsControl) {
		return origin{}, errors.New("it offers nothing by which to resume")
	}
	return o, nil
}

// validator is what If-Range may carry (RFC 9110, 13.1.5): a strong ETag, or a
// Last-Modified. "" when the server gave neither; then nothing can be resumed.
func (o origin) validator() string {
	if o.ETag != "" {
		if strings.HasPrefix(o.ETag, "W/") {
			return ""
		}
		return o.ETag
	}
	return o.LastModified
}

func key(u *url.URL) string {
	sum := sha256.Sum256([]byte(u.String()))
	return hex.EncodeToString(sum[:])
}

// contentRange reads "bytes 100-199/200".
func contentRange(h string) (first, total int64, err error) {
	rest, ok := strings.CutPrefix(h, "bytes ")
	span, all, ok2 := strings.Cut(rest, "/")
	a, _, ok3 := strings.Cut(span, "-")
	if ok && ok2 && ok3 {
		first, err = strconv.ParseInt(a, 10, 64)
		if err == nil {
			total, err = strconv.ParseInt(all, 10, 64)
		}
		if err == nil {
			return first, total, nil
		}
	}
	return 0, 0, fmt.Errorf("the server answered with the range %.60q", h)
}
