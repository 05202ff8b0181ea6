// Shared memory: a range of addresses of its own. Every array ends (up to its alignment) where a
// page begins that nobody may touch, so that an overrun faults at once; the bytes that remain
// beside it are watched. Arrays keep their place for ever and are filled anew for every block.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "cuda_emulator/block.h"
#include "engine/machine.h"
#include "engine/sanitizers.h"

namespace cuda_emulator {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kReserved = size_t{1} << 30;
constexpr size_t kStaticAlignment = 16, kDynamicAlignment = 128;
constexpr unsigned char kUninitialised = 0xFF, kBeside = 0xA5;
constexpr size_t kWatchedBefore = 64;

struct Slot {
  const char* name;
  unsigned char* pages;  // whole pages, between forbidden ones
  size_t page_bytes;
  unsigned char* begin;  // of the array
  size_t bytes;
};

unsigned char* reserved;  // kReserved bytes
size_t used;
std::vector<Slot> slots;         // every array ever seen; the first one is the dynamic memory
std::vector<int> of_this_block;  // slots in use
size_t static_bytes;             // of this block

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

int add_slot(const char* name, size_t bytes) {
  if (reserved == nullptr) {
    void* memory =
        mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail("no addresses for shared memory");
    reserved = static_cast<unsigned char*>(memory);
    used = kPage;
  }
  const size_t page_bytes = round_up(std::max<size_t>(bytes + kWatchedBefore, 1), kPage);
  if (used + page_bytes + kPage > kReserved) fail("too many shared arrays");
  unsigned char* pages = reserved + used;
  used += page_bytes + kPage;
  if (mprotect(pages, page_bytes, PROT_READ | PROT_WRITE) != 0) fail("no shared memory");
  slots.push_back({name, pages, page_bytes, nullptr, 0});
  return static_cast<int>(slots.size()) - 1;
}

unsigned char* end_of(const Slot& slot) { return slot.begin + slot.bytes; }
unsigned char* end_of_pages(const Slot& slot) { return slot.pages + slot.page_bytes; }
unsigned char* watched_begin(const Slot& slot) { return slot.begin - kWatchedBefore; }

// The pages in use become new memory to ThreadSanitizer: the addresses of one block have nothing to
// do with those of another.
void renew_pages(const Slot& slot) {
  if (!under_thread_sanitizer()) return;
  const size_t unused = (watched_begin(slot) - slot.pages) / kPage * kPage;
  if (mmap(slot.pages + unused, slot.page_bytes - unused, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
    fail("no shared memory");
}

// Places `bytes` at the end of the slot.
void begin_slot(int number, size_t bytes, size_t alignment) {
  const Unseen unseen;
  Slot& slot = slots[number];
  slot.bytes = bytes;
  slot.begin = end_of_pages(slot) - round_up(bytes, alignment);
  renew_pages(slot);
  const size_t before = kWatchedBefore, after = end_of_pages(slot) - end_of(slot);
  allow_memory(watched_begin(slot), before + bytes + after);
  std::memset(watched_begin(slot), kBeside, before);
  std::memset(slot.begin, kUninitialised, bytes);
  std::memset(end_of(slot), kBeside, after);
  forbid_memory(watched_begin(slot), before);
  forbid_memory(end_of(slot), after);
  of_this_block.push_back(number);
}

bool untouched(const unsigned char* begin, const unsigned char* end) {
  return std::all_of(begin, end, [](unsigned char byte) { return byte == kBeside; });
}

}  // namespace

void begin_shared_memory(size_t dynamic_bytes) {
  if (slots.empty()) add_slot("dynamic shared memory", kMaxSharedBytes);
  of_this_block.clear();
  static_bytes = 0;
  begin_slot(0, dynamic_bytes, kDynamicAlignment);
}

void* shared_memory(SharedArray& array) {
  if (array.block == machine.block_number) return array.address;
  const Unseen unseen;
  static std::vector<std::pair<const SharedArray*, int>> slot_of;
  auto found = std::find_if(slot_of.begin(), slot_of.end(),
                            [&](const auto& entry) { return entry.first == &array; });
  if (found == slot_of.end())
    found = slot_of.insert(slot_of.end(), {&array, add_slot(array.name, array.bytes)});
  static_bytes += round_up(array.bytes, kStaticAlignment);
  if (static_bytes > kMaxStaticSharedBytes)
    fail("more than %zu bytes of static shared memory, with the array %s", kMaxStaticSharedBytes,
         array.name);
  const size_t most = machine.launch->opted_in ? kMaxSharedBytes : kMaxStaticSharedBytes;
  if (static_bytes + machine.launch->shared_bytes > most)
    fail("more than %zu bytes of static and dynamic shared memory, with the array %s", most,
         array.name);
  begin_slot(found->second, array.bytes, kStaticAlignment);
  array.address = slots[found->second].begin;
  array.block = machine.block_number;
  return array.address;
}

unsigned char* dynamic_shared_memory() { return slots[0].begin; }

void check_shared_memory() {
  if (under_address_sanitizer()) return;  // which lets nobody write there
  for (int number : of_this_block) {
    const Slot& slot = slots[number];
    if (!untouched(watched_begin(slot), slot.begin))
      fail("a thread of the block has written before the begin of the shared array %s", slot.name);
    if (!untouched(end_of(slot), end_of_pages(slot)))
      fail("a thread of the block has written past the end of the shared array %s (%zu bytes)",
           slot.name, slot.bytes);
  }
}

bool is_shared(const void* memory, size_t bytes) {
  const auto* begin = static_cast<const unsigned char*>(memory);
  return std::any_of(of_this_block.begin(), of_this_block.end(), [&](int number) {
    return begin >= slots[number].begin && begin + bytes <= end_of(slots[number]);
  });
}

const char* explain_shared(const void* address) {
  static char text[256];
  text[0] = '\0';
  const auto* at = static_cast<const unsigned char*>(address);
  if (reserved == nullptr || at < reserved || at >= reserved + kReserved) return text;
  for (const Slot& slot : slots) {
    if (at < slot.pages - kPage || at >= end_of_pages(slot) + kPage) continue;
    const bool past = at >= end_of_pages(slot);
    std::snprintf(text, sizeof text, "access %s the shared array %s (%zu bytes), at byte %td",
                  past ? "past the end of" : "before the begin of", slot.name, slot.bytes,
                  at - slot.begin);
    if (past) return text;
  }
  return text;
}

}  // namespace cuda_emulator
