# The door to everything; the work is done by CMake and the scripts it names.
#
#   make demo       from nothing to a served model: installs, builds, streams, stops
#   make serve      the same server, kept running; SERVER_FLAGS="--listen=..." are passed on
#   make dashboards a loaded server, its status page and Prometheus, until Ctrl-C
#   make build      everything: server, clients, load generator, tests, benchmarks
#   make package    the relocatable tarball of deploy/package
#   make test       builds and runs every test
#   make test-gateway the smg gateway and OpenAI's client on 3 replicas; needs PyPI, 3 minutes
#   make test-deploy manifests against Kubernetes' schemas, Dockerfile by hadolint; needs PyPI
#   make test-image the Dockerfile's steps in a bare Debian, and the image run; needs root, 20 minutes
#   make sanitize   the GoogleTest binaries under ASan+UBSan and under TSan
#   make fuzz       every fuzz target for FUZZ_SECONDS
#   make bench      the CPU benchmarks of bench/README.md
#   make deps       installs what the tests need from Debian's packages
#   make format     clang-format over the sources
#   make clean      removes build/
#   make help       prints this

JOBS ?= $(shell nproc)
BUILD ?= build/release
MODEL ?= models/parallax-stories-14m
FUZZ_SECONDS ?= 60
PYTHON ?= /usr/bin/python3
CMAKE_FLAGS ?=
SERVER_FLAGS ?=

# A demo needs no CUDA compiler run unless there is a GPU to use it.
HAS_GPU := $(wildcard /dev/nvidia0)
DEMO_FLAGS = -DPARALLAX_BUILD_TESTS=OFF -DPARALLAX_BUILD_BENCH=OFF \
             -DPARALLAX_ENABLE_CUDA=$(if $(HAS_GPU),AUTO,OFF)
TEST_FLAGS = -DPARALLAX_BUILD_TESTS=ON -DPARALLAX_BUILD_BENCH=ON -DPARALLAX_ENABLE_CUDA=AUTO \
             -DPARALLAX_PYTHON=$(PYTHON)

.PHONY: help deps demo serve dashboards build test sanitize asan tsan fuzz bench format clean
.PHONY: demo-binaries package test-deploy test-gateway test-image

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

deps:
	deploy/setup/install_deps.sh test

demo-binaries:
	deploy/setup/install_deps.sh build
	cmake -S . -B $(BUILD) -G Ninja -DCMAKE_BUILD_TYPE=Release $(DEMO_FLAGS) $(CMAKE_FLAGS)
	cmake --build $(BUILD) -j $(JOBS) --target parallax-server parallax-client

demo: demo-binaries
	deploy/demo/demo.sh $(BUILD) $(MODEL)

serve: demo-binaries
	$(BUILD)/server/parallax-server --model $(MODEL) $(SERVER_FLAGS)

dashboards: demo-binaries
	deploy/setup/install_deps.sh dashboards
	deploy/demo/dashboards.sh $(BUILD) $(MODEL)

build:
	deploy/setup/install_deps.sh test
	cmake -S . -B $(BUILD) -G Ninja -DCMAKE_BUILD_TYPE=Release $(TEST_FLAGS) $(CMAKE_FLAGS)
	cmake --build $(BUILD) -j $(JOBS)

test: build
	tests/run_tests.sh $(BUILD) $(JOBS)

test-gateway: build
	tests/gateway/run_gateway_tests.sh $(BUILD)

test-deploy:
	tests/deploy/linters/run_linters.sh $(BUILD)

test-image:
	nice tests/deploy/run_dockerfile.py $(BUILD)/image $(MODEL)

sanitize: asan tsan

asan tsan:
	deploy/setup/install_deps.sh test
	cmake -S . --preset $@ $(CMAKE_FLAGS)
	cmake --build build/$@ -j $(JOBS)
	tests/run_tests.sh build/$@ $(JOBS) --label-exclude 'process|slow'

fuzz:
	deploy/setup/install_deps.sh ci
	cmake -S . --preset fuzz $(CMAKE_FLAGS)
	cmake --build build/fuzz -j $(JOBS) --target fuzzers
	tests/fuzz/run_fuzzers.sh build/fuzz $(FUZZ_SECONDS) $(JOBS)

package: build
	cd $(BUILD) && cpack -G TGZ

bench: build
	bench/run_cpu_benchmarks.sh $(BUILD)

format:
	git ls-files '*.h' '*.cc' '*.cu' '*.cuh' | xargs clang-format -i

clean:
	rm -rf build
