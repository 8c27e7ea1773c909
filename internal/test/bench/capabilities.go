package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// capabilitySets are what a container may be given of the driver.
var capabilitySets = [][]string{
	{"utility"},
	{"compute", "utility"},
	{"compute", "utility", "video"},
	{"compute", "utility", "video", "graphics"},
	{"all"},
}

// capabilities measures what each part of the driver costs: the time of an
// installation with the run file in the cache, and the bytes that stay.
func capabilities(ctx context.Context, s *stand) (section, error) {
	done := section{title: "Parts of the driver, the run file is cached"}
	if err := s.fill(ctx); err != nil {
		return done, err
	}
	var contenders []contender
	var sizes []row
	for i, set := range capabilitySets {
		name := hookName + ", " + strings.Join(set, " ")
		configure := fmt.Sprintf("[install]\ndeliver = \"mount\"\n[driver]\ncapabilities = [\"%s\"]\n", strings.Join(set, `", "`))
		sizes = append(sizes, row{name: "left in the container, " + strings.Join(set, " "), kind: ours, unit: inBytes})
		contenders = append(contenders, contender{name: name, kind: ours, run: func(ctx context.Context) (took time.Duration, err error) {
			if err := s.Configure(configure); err != nil {
				return 0, err
			}
			c, err := s.guest(ctx)
			if err != nil {
				return 0, err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			if err := s.settle(); err != nil {
				return 0, err
			}
			if took, err = timed(ctx, s.hook(ctx, c), nil); err != nil {
				return 0, err
			}
			var left int64
			for _, size := range written(filepath.Join(filepath.Dir(c.Root), "disk", "upper")) {
				left += size
			}
			sizes[i].samples = []float64{float64(left)}
			return took, check(ctx, c)
		}})
	}
	rows, err := interleave(ctx, s, "parts of the driver", s.runs, append(contenders,
		contender{name: shellName, kind: theirs, run: func(ctx context.Context) (time.Duration, error) { return s.install(ctx, s.shell) }},
		s.installerAlone()))
	done.rows = append(rows, sizes...)
	return done, errors.Join(err, s.deliver("auto"))
}
