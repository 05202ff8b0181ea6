// WatchedBackend: the CPU backend, with an eye on its memory: what a trainer reads from outside,
// and every byte that it could remember anything in.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"

namespace switchyard::test {

class WatchedBackend final : public Backend {
 public:
  // The integers of every upload since the last call, in their order: batches come first.
  std::vector<std::vector<int32_t>> take_uploads() { return std::move(uploads_); }

  // Of all memory that there is now.
  void remember_contents() {
    remembered_.clear();
    for (const Buffer& buffer : buffers_)
      remembered_[buffer.data()] = {buffer.data(), buffer.data() + buffer.bytes()};
  }
  // What has changed since remember_contents(), and memory that is new, becomes garbage: all ones,
  // a NaN in every type.
  void write_garbage_where_changed() {
    constexpr int64_t kWord = 8;
    for (const Buffer& buffer : buffers_) {
      const auto before = remembered_.find(buffer.data());
      for (int64_t i = 0; i < buffer.bytes(); i += kWord) {
        std::byte* const word = buffer.data() + i;
        const auto length = static_cast<size_t>(std::min(kWord, buffer.bytes() - i));
        if (before == remembered_.end() ||
            std::memcmp(word, &before->second[static_cast<size_t>(i)], length) != 0)
          std::memset(word, 0xFF, length);
      }
    }
  }

  std::string description() const override { return cpu_.description(); }
  Ops& ops() override { return cpu_.ops(); }
  double peak_flops(DType real) override { return cpu_.peak_flops(real); }
  Queue compute_queue() override { return cpu_.compute_queue(); }
  Event record(Queue queue) override { return cpu_.record(queue); }
  void wait(Queue queue, Event event) override { cpu_.wait(queue, event); }
  void host_wait(Event event) override { cpu_.host_wait(event); }
  Event start(std::unique_ptr<PendingWork> work, Event after) override {
    return cpu_.start(std::move(work), after);
  }
  void progress() override { cpu_.progress(); }
  bool is_complete(Event event) override { return cpu_.is_complete(event); }
  void upload(Queue queue, Tensor device, const void* host) override {
    if (device.dtype() == DType::kI32) {
      const auto* values = static_cast<const int32_t*>(host);
      uploads_.emplace_back(values, values + device.numel());
    }
    cpu_.upload(queue, device, host);
  }
  void download(Queue queue, void* host, Tensor device) override {
    cpu_.download(queue, host, device);
  }

 private:
  std::byte* do_allocate(int64_t bytes) override {
    buffers_.emplace_back(cpu_, bytes);
    return buffers_.back().data();
  }
  void do_free(std::byte* memory, int64_t) override {
    remembered_.erase(memory);
    std::erase_if(buffers_, [&](const Buffer& buffer) { return buffer.data() == memory; });
  }

  CpuBackend cpu_{1};
  std::vector<Buffer> buffers_;
  std::map<const std::byte*, std::vector<std::byte>> remembered_;
  std::vector<std::vector<int32_t>> uploads_;
};

}  // namespace switchyard::test
