// prepare: text to token files. A plain text file is one document; a .jsonl file has one per line.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace switchyard {

struct PrepareOptions {
  std::vector<std::string> inputs;
  std::string output_prefix;
  std::string json_key = "text";  // of the document's text in a line of a .jsonl file
  bool force = false;             // overwrite an existing output
};

struct PrepareReport {
  int64_t documents = 0, tokens = 0, bytes = 0;
};

// Streams all inputs, in order, through the byte tokenizer into OUTPUT_PREFIX.bin/.idx; each
// document ends with the end-of-document token. Memory: one chunk of text, or one JSONL line.
// `progress` hears how many bytes of the input are done. Errors: kData (an input is missing or a
// line is no JSON object with the key; says file and line), kStorage (the output).
PrepareReport prepare(const PrepareOptions& options,
                      const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace switchyard
