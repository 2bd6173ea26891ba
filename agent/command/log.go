package command

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"

	"github.com/parley-mesh/parley/agent/config"
)

// newLogger writes to w in the configured format. Lines appear at once: an agent may be killed at any time.
func newLogger(cfg config.Log, w io.Writer) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(cfg.Level)
	if err != nil {
		return nil, err
	}
	var encoder zapcore.Encoder = &sentences{MapObjectEncoder: zapcore.NewMapObjectEncoder()}
	if cfg.Format == "json" {
		encoding := zap.NewProductionEncoderConfig()
		encoding.TimeKey, encoding.EncodeTime = "time", zapcore.RFC3339NanoTimeEncoder
		encoding.EncodeDuration = zapcore.StringDurationEncoder
		encoder = zapcore.NewJSONEncoder(encoding)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level)), nil
}

// sentences is a zap encoder for people:
//
//	2026-01-02 15:04:05.000 info  consensus: became leader (term=3 index=812)
//
// The fields that came with the logger stand in it, sorted; those of the message follow in their order.
type sentences struct {
	*zapcore.MapObjectEncoder
}

var lines = buffer.NewPool()

// Clone copies the logger's fields for a child logger.
func (s *sentences) Clone() zapcore.Encoder {
	c := zapcore.NewMapObjectEncoder()
	for k, v := range s.Fields {
		c.Fields[k] = v
	}
	return &sentences{MapObjectEncoder: c}
}

// EncodeEntry writes one line.
func (s *sentences) EncodeEntry(e zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	line := lines.Get()
	line.AppendString(e.Time.Format("2006-01-02 15:04:05.000 "))
	fmt.Fprintf(line, "%-5s ", e.Level)
	if e.LoggerName != "" {
		line.AppendString(e.LoggerName + ": ")
	}
	line.AppendString(e.Message)
	if facts := s.facts(fields); len(facts) > 0 {
		line.AppendString(" (" + strings.Join(facts, " ") + ")")
	}
	line.AppendString("\n")
	return line, nil
}

func (s *sentences) facts(own []zapcore.Field) []string {
	var list []string
	for k, v := range s.Fields {
		list = append(list, k+"="+fact(v))
	}
	slices.Sort(list)
	for _, f := range own {
		one := zapcore.NewMapObjectEncoder()
		f.AddTo(one)
		for k, v := range one.Fields {
			if k == f.Key { // zap adds errorVerbose beside error
				list = append(list, k+"="+fact(v))
			}
		}
	}
	return list
}

// fact writes a value, in quotes where it would not read as one word.
func fact(v any) string {
	text := fmt.Sprint(v)
	switch v := v.(type) {
	case time.Duration:
		text = shortDuration(v).String()
	case time.Time:
		text = v.UTC().Format(time.RFC3339)
	}
	if text == "" || strings.ContainsAny(text, " ()=\"\n\t") {
		return strconv.Quote(text)
	}
	return text
}

// shortDuration drops digits that nobody reads.
func shortDuration(d time.Duration) time.Duration {
	switch {
	case d.Abs() >= time.Minute:
		return d.Round(time.Second)
	case d.Abs() >= time.Second:
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Microsecond)
}
