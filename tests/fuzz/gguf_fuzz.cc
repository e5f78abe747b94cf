// A whole GGUF file: header, configuration, text side.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "engine/model/model_files.h"
#include "engine/model/model_info.h"
#include "engine/model/model_text.h"
#include "engine/model/registry.h"
#include "engine/weights/gguf.h"
#include "fmt/format.h"

namespace hostler {
namespace {

void ReadModel(const std::string& path) {
  absl::StatusOr<ModelFiles> files = OpenModelFiles(path);
  if (!files.ok()) return;
  DescribeModel(path, *files);
  if (files->gguf == nullptr) return;
  absl::StatusOr<ModelText> text = LoadGgufText(*files->gguf);
  if (!text.ok() || text->tokenizer == nullptr) return;
  text->tokenizer->Encode("Hello, world 123", {.parse_special = true, .add_special = true});
}

}  // namespace
}  // namespace hostler

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto header = hostler::ParseGguf(std::as_bytes(std::span(data, size)), "fuzz.gguf");
  if (!header.ok()) return 0;
  static const int file = memfd_create("fuzz.gguf", 0);
  if (file < 0 || ftruncate(file, 0) != 0 ||
      pwrite(file, data, size, 0) != static_cast<ssize_t>(size)) {
    __builtin_trap();
  }
  hostler::ReadModel(fmt::format("/proc/self/fd/{}", file));
  return 0;
}
