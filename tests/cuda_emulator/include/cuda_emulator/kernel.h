// What a launch must know of a kernel: how many parameters of which size, and how to call it from
// copies of its arguments.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

namespace cuda_emulator {

struct Kernel {
  const void* function;
  void (*call)(const void* function, void* const* arguments);
  int num_parameters;
  const size_t* parameter_bytes;
  const bool* parameter_is_pointer;
  // Zeros for the bytes of structures that belong to no member; null where a compiler cannot tell.
  void (*clear_padding)(void* const* arguments);
};

// Registering twice is fine. Returns what is registered.
const Kernel* register_kernel(const Kernel& kernel);
const Kernel* find_kernel(const void* function);  // null: never registered
// As in the source, with template arguments and without namespaces: "softmax_kernel<float>".
const char* kernel_name(const void* function);

template <typename... Parameters>
class KernelOf {
 public:
  static_assert((std::is_trivially_copyable_v<Parameters> && ...),
                "parameters of kernels are copied byte by byte");

  static Kernel describe(void (*function)(Parameters...)) {
    return {reinterpret_cast<const void*>(function),
            call,
            sizeof...(Parameters),
            kBytes,
            kIsPointer,
            kClearPadding};
  }

 private:
  static void call(const void* function, void* const* arguments) {
    call_with(function, arguments, std::index_sequence_for<Parameters...>{});
  }
  template <size_t... kIndex>
  static void call_with(const void* function, [[maybe_unused]] void* const* arguments,
                        std::index_sequence<kIndex...>) {
    reinterpret_cast<void (*)(Parameters...)>(const_cast<void*>(function))(
        *static_cast<std::remove_reference_t<Parameters>*>(arguments[kIndex])...);
  }

#if __has_builtin(__builtin_clear_padding)
  static void clear_padding(void* const* arguments) {
    clear_padding_of(arguments, std::index_sequence_for<Parameters...>{});
  }
  template <size_t... kIndex>
  static void clear_padding_of([[maybe_unused]] void* const* arguments,
                               std::index_sequence<kIndex...>) {
    (__builtin_clear_padding(static_cast<std::remove_cv_t<Parameters>*>(arguments[kIndex])), ...);
  }
  static constexpr auto kClearPadding = &clear_padding;
#else
  static constexpr void (*kClearPadding)(void* const*) = nullptr;
#endif

  static constexpr size_t kBytes[sizeof...(Parameters) + 1] = {sizeof(Parameters)..., 0};
  static constexpr bool kIsPointer[sizeof...(Parameters) + 1] = {std::is_pointer_v<Parameters>...,
                                                                 false};
};

}  // namespace cuda_emulator
