package api

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// The table is contract: clients and scripts branch on these numbers.
func TestErrorTable(t *testing.T) {
	want := map[string]string{
		CodeInvalid: "400 1 false", CodeNotFound: "404 1 false", CodeNoEndpoint: "404 1 false", CodeMethod: "405 1 false",
		CodeConflict: "409 1 false", CodeExists: "409 1 false", CodeExpired: "403 4 false", CodeUsed: "403 4 false",
		CodeRevoked: "403 4 false", CodeGuarded: "409 4 false", CodeDenied: "403 4 false", CodeForbiddenOrigin: "403 4 false",
		CodeTooLarge: "413 1 false", CodeLimit: "422 1 false", CodeBusy: "429 3 true", CodeTooMany: "429 3 true",
		CodeNoLeader: "503 3 true", CodeNotLeader: "503 3 true", CodeUnavailable: "503 3 true", CodeTimeout: "504 3 true",
		CodeOutcomeUnknown: "504 5 false", CodeNoSpace: "507 1 true", CodeReadOnly: "503 3 true", CodeCanceled: "499 1 true",
		CodeUnsupported: "501 1 false", CodeInternal: "500 1 false",
		CodeQuarantined: "422 1 false", CodeDeadline: "504 3 true", CodeRequestReused: "422 1 false", CodeRequestForgotten: "410 5 false",
	}
	for code := range table {
		e := Errorf(code, "m")
		if got := fmt.Sprintf("%d %d %v", e.Status(), e.ExitCode(), e.Retryable()); got != want[code] {
			t.Errorf("%s is %q, want %q", code, got, want[code])
		}
		if e.Hint == "" {
			t.Errorf("%s has no hint", code)
		}
	}
	if len(table) != len(want) {
		t.Errorf("%d codes, this test knows %d", len(table), len(want))
	}
}

// Every error ends as an Error with a hint; a write's unknown end is never called a failure.
func TestAsError(t *testing.T) {
	for _, test := range []struct {
		err         error
		read, write string
	}{
		{context.Canceled, CodeCanceled, CodeOutcomeUnknown},
		{context.DeadlineExceeded, CodeTimeout, CodeOutcomeUnknown},
		{errors.New("boom"), CodeInternal, CodeOutcomeUnknown},
		{&Error{Code: CodeBusy}, CodeBusy, CodeBusy},
		{fmt.Errorf("wrapped: %w", Errorf(CodeNotLeader, "x")), CodeNotLeader, CodeNotLeader},
		{&Error{Code: CodeTimeout}, CodeTimeout, CodeOutcomeUnknown},
		{&Error{Code: CodeInternal}, CodeInternal, CodeOutcomeUnknown},
	} {
		if got := AsError(test.err); got.Code != test.read || got.Hint == "" {
			t.Errorf("AsError(%v) = %s, hint %q; want %s", test.err, got.Code, got.Hint, test.read)
		}
		if got := asWriteError(test.err); got.Code != test.write || got.Hint == "" {
			t.Errorf("asWriteError(%v) = %s, hint %q; want %s", test.err, got.Code, got.Hint, test.write)
		}
	}
	if AsError(nil) != nil {
		t.Error("nil became an error")
	}
	if e := (&Error{Code: "from_the_future"}); e.Status() != 500 || e.ExitCode() != 1 {
		t.Errorf("an unknown code is status %d, exit %d", e.Status(), e.ExitCode())
	}
}
