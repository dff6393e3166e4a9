// Runs a model without Python, a package of AOTInductor or TorchScript: run_package LIBRARY MODEL.pt2|MODEL.pt INPUTS
// OUTPUTS LIBRARY has the ops (mingru/_C.abi3.so, as installed); INPUTS is a TorchScript module with the tensors as buffers.
// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>
#include <torch/script.h>

#include <fstream>
#include <iostream>

std::vector<torch::Tensor> run(const std::string& path, const std::vector<torch::Tensor>& inputs) {
  if (path.ends_with(".pt2")) return torch::inductor::AOTIModelPackageLoader(path).run(inputs);
  const torch::IValue result = torch::jit::load(path).forward({inputs.begin(), inputs.end()});
  std::vector<torch::Tensor> outputs;
  for (const torch::IValue& output : result.toTupleRef().elements()) outputs.push_back(output.toTensor());
  return outputs;
}

int main(int, char** arguments) {
  if (dlopen(arguments[1], RTLD_LAZY | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
  const torch::NoGradGuard no_gradients;
  std::vector<torch::Tensor> inputs;
  for (const auto& buffer : torch::jit::load(arguments[3]).buffers()) inputs.push_back(buffer);
  const std::vector<char> bytes = torch::jit::pickle_save(torch::IValue(run(arguments[2], inputs)));
  std::ofstream(arguments[4], std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
}
