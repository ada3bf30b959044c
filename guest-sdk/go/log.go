package rule

import (
	"fmt"

	"watchfire/rule/internal/host"
)

type level uint8

const (
	logDebug level = iota
	logInfo
	logWarn
	logError
)

// Log is the log of the rule, shown by `watchfire rule tail`; its methods are those of fmt.Printf, by level.
var Log logger

type logger struct{}

// Debug writes a line for those who look for a mistake.
func (logger) Debug(format string, arguments ...any) { write(logDebug, format, arguments) }

// Info writes a line.
func (logger) Info(format string, arguments ...any) { write(logInfo, format, arguments) }

// Warn writes a line of something that should not be.
func (logger) Warn(format string, arguments ...any) { write(logWarn, format, arguments) }

// Error writes a line of something that went wrong.
func (logger) Error(format string, arguments ...any) { write(logError, format, arguments) }

func write(level level, format string, arguments []any) {
	text := format
	if len(arguments) > 0 {
		text = fmt.Sprintf(format, arguments...)
	}
	host.Log(uint8(level), text)
}
