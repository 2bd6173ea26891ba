package main

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// test is one line of tests.txt.
type test struct {
	group, name string
	excluded    string // why it is not run; "" for one that has to pass
}

type list []test

// parseList reads tests.txt. A test that is there twice, or is excluded without a reason, is an error.
func parseList(text string) (list, error) {
	var l list
	group, seen := "", map[string]bool{}
	scanner := bufio.NewScanner(strings.NewReader(text))
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimSpace(scanner.Text())
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			continue
		case strings.HasPrefix(line, "["):
			group = strings.Trim(line, "[]")
			continue
		}
		name, reason, excluded := strings.Cut(line, "|")
		t := test{group: group, name: strings.TrimSpace(name), excluded: strings.TrimSpace(reason)}
		switch {
		case seen[t.name]:
			return nil, fmt.Errorf("%s:%d: %s is there twice", listing, n, t.name)
		case excluded && len(t.excluded) < 10:
			return nil, fmt.Errorf("%s:%d: %s is excluded without a reason", listing, n, t.name)
		case group == "":
			return nil, fmt.Errorf("%s:%d: %s has no group", listing, n, t.name)
		}
		seen[t.name] = true
		l = append(l, t)
	}
	return l, scanner.Err()
}

// readList is the list, checked against the tests that there are: none may be forgotten.
func readList(there []string) (list, error) {
	text, err := os.ReadFile(listing)
	if err != nil {
		return nil, err
	}
	l, err := parseList(string(text))
	if err != nil {
		return nil, err
	}
	var problems []string
	for _, name := range there {
		if !slices.ContainsFunc(l, func(t test) bool { return t.name == name }) {
			problems = append(problems, name+" is not in "+listing+": run it, or say why not")
		}
	}
	for _, t := range l {
		if !slices.Contains(there, t.name) {
			problems = append(problems, t.name+" is in "+listing+" and no test of the client")
		}
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("%s", strings.Join(problems, "\n"))
	}
	return l, nil
}

// required are the names of the tests that have to pass.
func (l list) required(only *regexp.Regexp) (names []string) {
	for _, t := range l {
		if t.excluded == "" && only.MatchString(t.name) {
			names = append(names, t.name)
		}
	}
	return names
}
