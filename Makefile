# What the README names, and nothing else to remember.
#
#   make setup   install what is needed: system packages, ONNX Runtime, Python tools; PyTorch, MLflow and Triton for the tests
#   make demo    build, and run the whole job on the imagery that ships with the project; results lie in results/
#   make test    formatting, lints, all tests, generated reference
#   make faults  kill servers and steps five hundred times on each database, crowd one file for a minute, fill its disk, and
#                check that nothing is lost or doubled
#   make simulate   live through ten thousand simulated worlds full of misfortune (SWATH_SIM_SEEDS says how many)
#   make bench   measure against peers in the same run; takes a while

.PHONY: help setup demo test faults simulate bench
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

setup:
	@infra/setup.sh
	@infra/torch.sh
	@infra/mlflow.sh
	@infra/triton.sh install

demo:
	@infra/setup.sh
	@infra/demo.sh

test: setup
	@infra/test.sh

faults: setup
	@SWATH_FAULTS=$${SWATH_FAULTS:-500} SWATH_CROWD=$${SWATH_CROWD:-60} \
		cargo test --workspace --test product -- faults:: crowd:: disk:: --nocapture --test-threads=1
	@SWATH_CROWD=$${SWATH_CROWD:-60} cargo test --workspace --test store -- sixty_four_writers --nocapture

simulate: setup
	@SWATH_SIM_SEEDS=$${SWATH_SIM_SEEDS:-10000} \
		cargo test --profile simulate --package swath-control --test simulation -- --nocapture --test-threads=1

bench: setup
	@bench/run.sh
