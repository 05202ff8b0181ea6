// Kernels by their functions: how to call them, and what they are called. Kernels are local to
// their files, so their names are in the symbol table of the executable alone.
#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <regex>
#include <span>
#include <string>
#include <unordered_map>

#include "engine/engine.h"

namespace cuda_emulator {
namespace {

class MappedFile {
 public:
  explicit MappedFile(const char* path) {
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (file >= 0 && fstat(file, &status) == 0 && status.st_size > 0) {
      size_ = static_cast<size_t>(status.st_size);
      void* memory = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
      if (memory != MAP_FAILED) data_ = static_cast<const char*>(memory);
    }
    if (file >= 0) close(file);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (data_ != nullptr) munmap(const_cast<char*>(data_), size_);
  }
  const char* data() const { return data_; }

 private:
  const char* data_ = nullptr;
  size_t size_ = 0;
};

// The mangled name of the function at `offset`; empty if the file has been stripped.
std::string symbol_at(const MappedFile& file, uintptr_t offset) {
  if (file.data() == nullptr) return {};
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(file.data());
  const std::span sections(reinterpret_cast<const ElfW(Shdr)*>(file.data() + header->e_shoff),
                           header->e_shnum);
  for (const auto& section : sections) {
    if (section.sh_type != SHT_SYMTAB) continue;
    const std::span symbols(reinterpret_cast<const ElfW(Sym)*>(file.data() + section.sh_offset),
                            section.sh_size / sizeof(ElfW(Sym)));
    const char* names = file.data() + sections[section.sh_link].sh_offset;
    for (const auto& symbol : symbols)
      if (symbol.st_value == offset && ELF64_ST_TYPE(symbol.st_info) == STT_FUNC)
        return names + symbol.st_name;
  }
  return {};
}

std::string demangle(const std::string& symbol) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(
      abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status), std::free);
  return status == 0 ? text.get() : symbol;
}

// "void a::(anonymous namespace)::f<b::C>(int)" -> "f<C>"
std::string shorten(std::string name) {
  static const std::regex scopes(R"((\(anonymous namespace\)|[A-Za-z_]\w*)::)");
  name = std::regex_replace(name, scopes, "");
  size_t begin = 0, end = name.size();
  int depth = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '<') ++depth;
    if (name[i] == '>') --depth;
    if (depth > 0) continue;
    if (name[i] == ' ') begin = i + 1;
    if (name[i] == '(') {
      end = i;
      break;
    }
  }
  return name.substr(begin, end - begin);
}

std::string find_name(const void* function) {
  Dl_info info{};
  link_map* map = nullptr;
  std::string symbol;
  if (dladdr1(function, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) != 0) {
    const bool executable = map->l_name == nullptr || map->l_name[0] == '\0';
    const MappedFile file(executable ? "/proc/self/exe" : map->l_name);
    symbol = symbol_at(file, reinterpret_cast<uintptr_t>(function) - map->l_addr);
  }
  if (!symbol.empty()) return shorten(demangle(symbol));
  char text[40];
  std::snprintf(text, sizeof text, "kernel_at_%p", function);
  return text;
}

struct Entry {
  Kernel kernel;
  std::string name;
};

// Host threads may launch at the same time. A mutex would order them for ThreadSanitizer.
class Registry {
 public:
  Entry* find(const void* function) {
    const Guard guard(locked_);
    const auto found = entries_.find(function);
    return found == entries_.end() ? nullptr : &found->second;
  }
  Entry* add(const Kernel& kernel) {
    if (Entry* entry = find(kernel.function)) return entry;
    const Unseen unseen;
    Entry entry{kernel, find_name(kernel.function)};
    const Guard guard(locked_);
    return &entries_.try_emplace(kernel.function, std::move(entry)).first->second;
  }

 private:
  struct Guard {
    explicit Guard(std::atomic_flag& flag) : locked(flag) {
      while (locked.test_and_set(std::memory_order_acquire)) {
      }
    }
    ~Guard() { locked.clear(std::memory_order_release); }
    std::atomic_flag& locked;
  };
  std::atomic_flag locked_;
  std::unordered_map<const void*, Entry> entries_;  // entries keep their addresses
};

Registry& registry() {
  static Registry kernels;
  return kernels;
}

}  // namespace

const Kernel* register_kernel(const Kernel& kernel) { return &registry().add(kernel)->kernel; }

const Kernel* find_kernel(const void* function) {
  const Entry* entry = registry().find(function);
  return entry == nullptr ? nullptr : &entry->kernel;
}

const char* kernel_name(const void* function) {
  const Entry* entry = registry().find(function);
  return entry == nullptr ? "?" : entry->name.c_str();
}

}  // namespace cuda_emulator
