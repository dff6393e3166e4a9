// Runs a package of AOTInductor without Python: run_package LIBRARY PACKAGE INPUTS OUTPUTS
// LIBRARY has the ops (mingru/_C.abi3.so, as installed); INPUTS is a TorchScript module with the tensors as buffers.
// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>
#include <torch/script.h>

#include <fstream>
#include <iostream>

int main(int, char** arguments) {
  if (dlopen(arguments[1], RTLD_LAZY | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
  torch::inductor::AOTIModelPackageLoader model(arguments[2]);
  std::vector<torch::Tensor> inputs;
  for (const auto& buffer : torch::jit::load(arguments[3]).buffers()) inputs.push_back(buffer);
  const std::vector<char> bytes = torch::jit::pickle_save(torch::IValue(model.run(inputs)));
  std::ofstream(arguments[4], std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
}
