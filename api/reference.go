package api

import (
	"cmp"
	"slices"
)

// ErrorClass is what one code means outside, for documentation.
type ErrorClass struct {
	Code         string
	Status, Exit int
	Retryable    bool
	Hint         string
}

// ErrorTable lists all codes, by status and then by name.
func ErrorTable() []ErrorClass {
	var list []ErrorClass
	for code, c := range table {
		list = append(list, ErrorClass{Code: code, Status: c.status, Exit: c.exit, Retryable: c.retry, Hint: c.hint})
	}
	slices.SortFunc(list, func(a, b ErrorClass) int {
		return cmp.Or(cmp.Compare(a.Status, b.Status), cmp.Compare(a.Code, b.Code))
	})
	return list
}
