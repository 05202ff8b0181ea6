// read_headers: says which files our reader of safetensors takes, for a comparison with another.
//
//   read_headers DIRECTORY < inputs
//
// An input is its length, a u64 of this machine, and its bytes. Prints a line for each: empty when
// it is taken, else why it is refused. DIRECTORY is for a file that holds one input at a time.
#include <fmt/format.h>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <string>

#include "checkpoint/safetensors.h"
#include "core/error.h"

using namespace switchyard;

namespace {

std::string verdict_on(const std::string& path) {
  try {
    const SafetensorsFile file(path);
    return "";
  } catch (const Error& error) {
    std::string why = error.what();
    return why.substr(0, why.find('\n'));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return static_cast<int>(ExitCode::kConfig);
  const std::string path = std::string(argv[1]) + "/input.safetensors";
  std::ios::sync_with_stdio(false);
  uint64_t bytes = 0;
  while (std::cin.read(reinterpret_cast<char*>(&bytes), sizeof(bytes))) {
    std::string input(bytes, '\0');
    std::cin.read(input.data(), static_cast<std::streamsize>(bytes));
    std::ofstream(path, std::ios::binary) << input;
    std::cout << verdict_on(path) << '\n' << std::flush;
  }
}
