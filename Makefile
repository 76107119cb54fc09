# Targets that help people work; .ci/run is what a machine runs, and stands on the same commands.

GO       ?= go
FUZZTIME ?= 10s
LINT     := $(GO) tool -modfile=tools/go.mod golangci-lint

.DEFAULT_GOAL := help
.PHONY: help build check fmt vet lint other test e2e fuzz bench cover demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build ./bin/baton
	$(GO) build -o bin/baton .

check: fmt vet lint other ## all that needs no test to run: format, vet, linter, other systems

fmt:
	@test -z "$$(gofmt -l .)" || { gofmt -d . ; exit 1; }

vet:
	$(GO) vet ./...

lint: ## the linter alone, at the version pinned in tools/go.mod
	$(LINT) run ./...

other: ## vet for darwin, build for arm64
	CGO_ENABLED=0 GOOS=darwin $(GO) vet ./...
	CGO_ENABLED=0 GOARCH=arm64 $(GO) build ./...

test: ## every test, with the race detector
	$(GO) test -race -timeout 30m ./internal/e2e ./...

e2e: ## the tests that drive the program from outside, one after another, in words
	$(GO) test -race -timeout 30m -count=1 -v ./internal/e2e

fuzz: ## each fuzz target for FUZZTIME (10s; a count such as 50000x works too)
	./.ci/fuzz $(FUZZTIME)

bench: ## measure against the same server bare and against peers (minutes; wants a quiet machine)
	$(GO) run ./bench

cover: ## the rules, which must be covered to the line; the report lies in coverage.html
	./.ci/cover
	$(GO) tool cover -html=coverage.out -o coverage.html

demo: ## swap a real server under load and count what is lost
	$(GO) run . demo

clean: ## remove what the targets above leave
	rm -rf bin coverage.out coverage.html
