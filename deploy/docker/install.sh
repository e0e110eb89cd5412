#!/bin/sh
# install.sh REQUIREMENTS...  Install into the image's environment, compiled, and leave out what nothing there runs.
#
# Bytecode decides how fast a courier starts (Flower starts a process for each message): 1.3 s with it, 4.4 s without.
set -eu
venv=/opt/consilium
pip --python "$venv/bin/python" install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
  --compile --quiet "$@"
# uv: only for Flower's installation of dependencies at run time, which is switched off; now it is impossible.
# triton: only for torch.compile, which Consilium does not use. PyTorch runs without it, as it does on other systems.
pip --python "$venv/bin/python" uninstall --disable-pip-version-check --root-user-action=ignore --quiet --yes uv triton \
  2>/dev/null
cd "$venv"/lib/python3.*/site-packages
find . -type d -name tests -prune -exec rm -rf {} +
# What only compilers read, and libraries of CUDA that neither PyTorch nor another library loads.
rm -rf nvidia/*/include nvidia/*/lib/*.a nvidia/*/lib/*.bc torch/include torch/share \
  nvidia/*/lib/libcusolverMg.so.* nvidia/*/lib/libnvblas.so.* nvidia/*/lib/libcufftw.so.*
