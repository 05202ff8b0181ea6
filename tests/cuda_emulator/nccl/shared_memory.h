// SharedMemory: memory that processes of one machine share. It lies in an anonymous file that the
// others reach as /proc/PID/fd/FD, so nothing is left of it when the last of them has gone.
#pragma once

#include <cstddef>
#include <optional>

namespace cuda_emulator::nccl {

struct SharedMemoryName {
  int pid = 0, fd = -1;
  bool operator==(const SharedMemoryName&) const = default;
};

class SharedMemory {
 public:
  static SharedMemory create(size_t bytes);  // zeros
  // The same memory, in another process too. None when the process that created it has gone.
  static std::optional<SharedMemory> open(SharedMemoryName name, size_t bytes);
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&&) = delete;
  ~SharedMemory();

  void* data() const { return data_; }
  SharedMemoryName name() const { return name_; }

 private:
  SharedMemory(SharedMemoryName name, int fd, size_t bytes);

  SharedMemoryName name_;
  int fd_;  // -1: another process holds the file
  void* data_;
  size_t bytes_;
};

}  // namespace cuda_emulator::nccl
