// The ops, called from Python without torch's dispatcher: where there is little to compute, what it does around a kernel,
// and autograd's machinery that such calls push out of the caches, cost several times the kernel. Methods of `_C`, each with
// the arguments of the op of its name, by position; `layer` also with the shape that h_last shall have, or (). It returns
// what the op returns, or None where the call is one for the dispatcher: tensors of subclasses, not on the CPU, large, not
// dense, or wrong. Whoever calls has to know that nothing watches ops (is_unwatched, _modes.py).
//
// Tensors are read through DLPack's exchange API, which torch offers to C extensions (dlpack.h), and are made by new_empty.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Python.h>
#include <rnnkit/dlpack.h>
#include <rnnkit/tensors.h>

#include <exception>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

namespace rnnkit::direct {

constexpr int64_t kMostElements = 1 << 16;  // of the first tensor; from there on, a call's overhead is little of it

class Object {  // owns a reference
 public:
  explicit Object(PyObject* object = nullptr) : object_(object) {}
  Object(Object&& other) noexcept : object_(other.release()) {}
  Object& operator=(Object&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Object() { Py_XDECREF(object_); }

  static PyObject* borrow(PyObject* object) {
    Py_INCREF(object);
    return object;
  }
  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }

 private:
  PyObject* object_;
};

inline PyObject* checked(PyObject* object) {
  if (object == nullptr) throw std::runtime_error("an error of Python's");
  return object;
}

// What is known of Python and torch. None, True and False by call, not by name: C++ programs load this library without
// Python, where functions that are not called may be missing, and data may not.
struct Torch {
  PyObject *none = Py_BuildValue(""), *yes = PyBool_FromLong(1), *no = PyBool_FromLong(0);
  PyObject *tensor_type, *parameter_type, *float32, *dtype, *new_empty, *new_empty_strided, *as_strided, *data, *is_neg;
  int (*read)(void*, dlpack::Tensor*) = nullptr;  // null: this torch does not offer it

  Torch() {
    const Object torch(PyImport_ImportModule("torch")), nn(PyImport_ImportModule("torch.nn"));
    if (torch.get() == nullptr || nn.get() == nullptr) return;
    tensor_type = PyObject_GetAttrString(torch.get(), "Tensor");
    parameter_type = PyObject_GetAttrString(nn.get(), "Parameter");
    float32 = PyObject_GetAttrString(torch.get(), "float32");
    dtype = PyUnicode_InternFromString("dtype");
    new_empty = PyUnicode_InternFromString("new_empty");
    new_empty_strided = PyUnicode_InternFromString("new_empty_strided");
    as_strided = PyUnicode_InternFromString("as_strided");
    data = PyUnicode_InternFromString("data");
    is_neg = PyUnicode_InternFromString("is_neg");
    const Object capsule(PyObject_GetAttrString(tensor_type, "__dlpack_c_exchange_api__"));
    if (capsule.get() != nullptr && PyCapsule_IsValid(capsule.get(), dlpack::kCapsule) != 0) {
      const auto* const api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.get(), dlpack::kCapsule));
      if (api->major == dlpack::kMajorVersion) read = api->read;
    }
    PyErr_Clear();
  }

  static const Torch& get() {
    static const Torch torch;
    return torch;
  }

  bool negates(PyObject* tensor) const {
    const Object answer(PyObject_CallMethodObjArgs(tensor, is_neg, nullptr));
    return answer.get() != no;
  }

  bool is_plain(PyObject* object) const {
    PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(object));
    return read != nullptr && (type == tensor_type || type == parameter_type);
  }
};

inline PyObject* tuple_of(const Sizes& numbers) {
  Object tuple(checked(PyTuple_New(Py_ssize_t(numbers.size()))));
  for (int64_t i = 0; i < numbers.size(); ++i)
    PyTuple_SetItem(tuple.get(), Py_ssize_t(i), checked(PyLong_FromLongLong(numbers[i])));
  return tuple.release();
}

Tensor lend(PyObject* owned, bool made_here);

// A tensor of Python's. Others are made as its new_empty makes them.
class Lender : public Tensor::Lender {
 public:
  Lender(PyObject* owned, ScalarType dtype) : object_(owned), dtype_(dtype) {}

  void* object() const override { return object_.get(); }

  Tensor empty_strided(const Sizes& sizes, const Sizes& strides, ScalarType wanted) const override {
    const Torch& torch = Torch::get();
    const bool is_contiguous = strides == contiguous_strides(sizes);
    const Object method(checked(PyObject_GetAttr(object_.get(), is_contiguous ? torch.new_empty : torch.new_empty_strided)));
    Object arguments(tuple_of(sizes));  // new_empty(*sizes), which is parsed faster than new_empty(sizes)
    if (sizes.size() == 0) {
      arguments = Object(checked(PyTuple_Pack(1, arguments.get())));
    } else if (!is_contiguous) {
      const Object steps(tuple_of(strides));
      arguments = Object(checked(PyTuple_Pack(2, arguments.get(), steps.get())));
    }
    Object keywords;
    if (wanted != dtype_) {
      STD_TORCH_CHECK(wanted == ScalarType::Float, "a dtype that is not expected");
      keywords = Object(checked(PyDict_New()));
      PyDict_SetItem(keywords.get(), torch.dtype, torch.float32);
    }
    return lend(checked(PyObject_Call(method.get(), arguments.get(), keywords.get())), true);
  }

 private:
  const Object object_;
  const ScalarType dtype_;
};

inline ScalarType scalar_type_of(dlpack::DataType type) {
  switch (type.code << 8 | type.bits) {
    case dlpack::kFloat << 8 | 64: return ScalarType::Double;
    case dlpack::kFloat << 8 | 32: return ScalarType::Float;
    case dlpack::kFloat << 8 | 16: return ScalarType::Half;
    case dlpack::kBfloat << 8 | 16: return ScalarType::BFloat16;
    case dlpack::kInt << 8 | 64: return ScalarType::Long;
    case dlpack::kInt << 8 | 32: return ScalarType::Int;
    case dlpack::kBool << 8 | 8: return ScalarType::Bool;
    default: throw std::runtime_error("a dtype that is not expected");
  }
}

inline dlpack::Tensor described(PyObject* object) {
  dlpack::Tensor description;
  if (!Torch::get().is_plain(object) || Torch::get().read(object, &description) != 0)
    throw std::runtime_error("no plain tensor");
  return description;
}

inline int64_t elements(const dlpack::Tensor& t) {
  int64_t count = 1;
  for (int i = 0; i < t.dim; ++i) count *= t.sizes[i];
  return count;
}

// Of a reference, which it steals. The memory must be dense, with rows [B, T] or [T, B], and hold the tensor's values: those
// that are negated only when they are read (is_neg) do not. `made_here`: that needs no look.
inline Tensor lend(PyObject* owned, bool made_here) {
  Object object(owned);
  const dlpack::Tensor t = described(owned);
  if (t.device != dlpack::kCpu || (t.data == nullptr && elements(t) > 0)) throw std::runtime_error("no memory of the CPU");
  const bool may_negate = !made_here && t.dtype.code != dlpack::kInt && t.dtype.code != dlpack::kBool;
  if (may_negate && Torch::get().negates(owned)) throw std::runtime_error("values that are not those in memory");
  const ScalarType dtype = scalar_type_of(t.dtype);
  char* const data = static_cast<char*>(t.data) + t.byte_offset;
  const Tensor lent(std::make_shared<Lender>(object.release(), dtype), data, dtype, torch::headeronly::DeviceType::CPU,
                    Sizes(t.sizes, t.dim), Sizes(t.strides, t.dim));
  if (made_here) return lent;
  // with the strides that follow from that: those of a dimension of size 1 may be anything
  if (lent.is_contiguous()) return view_strided(lent, lent.sizes(), contiguous_strides(lent.sizes()));
  if (lent.dim() != 3 || !transposed(lent, 0, 1).is_contiguous()) throw std::runtime_error("memory that is not dense");
  const Sizes turned{lent.size(1), lent.size(0), lent.size(2)};
  return transposed(view_strided(lent, turned, contiguous_strides(turned)), 0, 1);
}

// From Python.

template <class T>
struct Argument;

template <>
struct Argument<Tensor> {
  static Tensor of(PyObject* object) { return lend(Object::borrow(object), false); }
};

template <class T>
struct Argument<std::optional<T>> {
  static std::optional<T> of(PyObject* object) {
    if (object == Torch::get().none) return std::nullopt;
    return Argument<T>::of(object);
  }
};

template <class T>
struct Argument<std::vector<T>> {
  static std::vector<T> of(PyObject* object) {
    const Object items(checked(PySequence_Tuple(object)));
    std::vector<T> values;
    for (Py_ssize_t i = 0; i < PyTuple_Size(items.get()); ++i)
      values.push_back(Argument<T>::of(PyTuple_GetItem(items.get(), i)));
    return values;
  }
};

template <>
struct Argument<Sizes> {
  static Sizes of(PyObject* object) {
    const std::vector<int64_t> values = Argument<std::vector<int64_t>>::of(object);
    return {values.data(), int64_t(values.size())};
  }
};

template <>
struct Argument<std::string> {
  static std::string of(PyObject* object) {
    Py_ssize_t size = 0;
    const char* const text = PyUnicode_AsUTF8AndSize(object, &size);
    if (text == nullptr) throw std::runtime_error("no string");
    return {text, size_t(size)};
  }
};

template <>
struct Argument<bool> {
  static bool of(PyObject* object) {
    const bool yes = object == Torch::get().yes;
    if (!yes && object != Torch::get().no) throw std::runtime_error("no bool");
    return yes;
  }
};

template <>
struct Argument<int64_t> {
  static int64_t of(PyObject* object) {
    const int64_t value = PyLong_AsLongLong(object);
    if (value == -1 && PyErr_Occurred() != nullptr) throw std::runtime_error("no integer");
    return value;
  }
};

template <>
struct Argument<double> {
  static double of(PyObject* object) {
    const double value = PyFloat_AsDouble(object);
    if (value == -1 && PyErr_Occurred() != nullptr) throw std::runtime_error("no number");
    return value;
  }
};

// To Python. A view of a tensor that was made here is handed out as a tensor of its own, as the dispatcher's ops do.

inline PyObject* to_python(const Tensor& t) {
  if (!t.defined()) return Object::borrow(Torch::get().none);
  PyObject* const object = checked(static_cast<PyObject*>(t.lender()->object()));
  const dlpack::Tensor made = described(object);
  const char* const start = static_cast<char*>(made.data) + made.byte_offset;
  bool same = made.dim == t.dim() && start == t.data_ptr();
  for (int64_t i = 0; same && i < t.dim(); ++i)
    same = made.sizes[i] == t.size(i) && (t.size(i) == 1 || made.strides[i] == t.stride(i));
  if (same) return Object::borrow(object);
  const int64_t first = (static_cast<const char*>(t.data_ptr()) - start) / bytes_of(t.scalar_type());
  const Object shape(tuple_of(t.sizes())), steps(tuple_of(t.strides())), offset(checked(PyLong_FromLongLong(first)));
  const Torch& torch = Torch::get();
  const Object view(
      checked(PyObject_CallMethodObjArgs(object, torch.as_strided, shape.get(), steps.get(), offset.get(), nullptr)));
  return checked(PyObject_GetAttr(view.get(), torch.data));
}

inline PyObject* to_python(const std::vector<Tensor>& tensors) {
  Object list(checked(PyList_New(Py_ssize_t(tensors.size()))));
  for (size_t i = 0; i < tensors.size(); ++i) PyList_SetItem(list.get(), Py_ssize_t(i), to_python(tensors[i]));
  return list.release();
}

template <class... Ts>
PyObject* to_python(const std::tuple<Ts...>& values) {
  Object tuple(checked(PyTuple_New(sizeof...(Ts))));
  Py_ssize_t i = 0;
  std::apply([&](const auto&... each) { (PyTuple_SetItem(tuple.get(), i++, to_python(each)), ...); }, values);
  return tuple.release();
}

// Whether the first tensor, which may be in a list, is one for here: most others are told apart by it, at no cost.
inline bool suits(PyObject* first) {
  const bool in_list = PyList_Check(first) || PyTuple_Check(first);
  const Object held(in_list ? PySequence_GetItem(first, 0) : Object::borrow(first));
  if (held.get() == nullptr || !Torch::get().is_plain(held.get())) return false;
  dlpack::Tensor t;
  return Torch::get().read(held.get(), &t) == 0 && t.device == dlpack::kCpu && elements(t) <= kMostElements;
}

template <auto function, class Signature = decltype(function)>
struct Method;

template <auto function, class Result, class... Arguments>
struct Method<function, Result (*)(Arguments...)> {
  static PyObject* call(PyObject*, PyObject* const* given, Py_ssize_t count) {
    try {
      if (count == sizeof...(Arguments) && suits(given[0])) return call(given, std::index_sequence_for<Arguments...>());
    } catch (const std::exception&) {  // the dispatcher's call says it in the user's words
    }
    PyErr_Clear();
    return Object::borrow(Torch::get().none);
  }

 private:
  template <size_t... i>
  static PyObject* call(PyObject* const* given, std::index_sequence<i...>) {
    return to_python(function(Argument<Arguments>::of(given[i])...));
  }
};

inline std::vector<PyMethodDef>& methods() {
  static std::vector<PyMethodDef> all;
  return all;
}

// Before the module is made, as ops are registered: when the library is loaded.
template <auto function>
bool add_method(const char* name) {
  PyObject* (*const call)(PyObject*, PyObject* const*, Py_ssize_t) = &Method<function>::call;
  methods().push_back({name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(call)), METH_FASTCALL, nullptr});
  return true;
}

}  // namespace rnnkit::direct
