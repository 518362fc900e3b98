# What the README names, and nothing else to remember.
#
#   make setup   install what is needed: system packages, ONNX Runtime, Python tools and PyTorch for the tests
#   make demo    build, and run the whole job on the imagery that ships with the project; results lie in results/
#   make test    formatting, lints, all tests, generated reference
#   make faults  kill servers and steps five hundred times on each database, and check that nothing is lost or doubled
#   make bench   measure against peers in the same run; takes a while

.PHONY: help setup demo test faults bench
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

setup:
	@infra/setup.sh
	@infra/torch.sh

demo:
	@infra/setup.sh
	@infra/demo.sh

test: setup
	@infra/test.sh

faults: setup
	@SWATH_FAULTS=$${SWATH_FAULTS:-500} cargo test --package swath --test product faults:: -- --nocapture --test-threads=1

bench: setup
	@bench/run.sh
