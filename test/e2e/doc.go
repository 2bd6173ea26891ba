// Package e2e tests real agent processes: it builds the program once, runs labs of it, breaks them,
// and looks at what a user would see. It holds tests only:
//
//	go test ./test/e2e
//
// Tests that need root, network namespaces or a Debian package say so and skip elsewhere; with CI=true
// a skip is a failure. Each lab has loopback addresses or namespaces of its own and ends with its test.
package e2e
