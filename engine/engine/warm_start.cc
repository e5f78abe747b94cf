#include "engine/engine/warm_start.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <system_error>
#include <utility>

#include "engine/base/checksum.h"
#include "engine/base/errno_status.h"
#include "engine/base/replace_file.h"
#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;

// Vectors beyond this are no norms.
constexpr uint64_t kMostVectorBytes = 1 << 20;
constexpr uint64_t kMostFileBytes = 64 << 20;

struct Header {
  char magic[8];
  uint32_t layers;
  uint32_t experts;
  char fingerprint[32];
};
static_assert(sizeof(Header) == 48);

constexpr std::string_view kMagic = "HOSTPOP1";

Header MakeHeader(int layers, int experts, std::string_view fingerprint) {
  Header header = {};
  kMagic.copy(header.magic, sizeof(header.magic));
  header.layers = static_cast<uint32_t>(layers);
  header.experts = static_cast<uint32_t>(experts);
  fingerprint.copy(header.fingerprint, sizeof(header.fingerprint));
  return header;
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    return absl::NotFoundError(fmt::format("there is no file {}", path));
  }
  const uint64_t bytes = fs::is_regular_file(status) ? fs::file_size(path, error) : 0;
  if (error || bytes < sizeof(Header) || bytes > kMostFileBytes) {
    return absl::InvalidArgumentError(fmt::format("{} is no popularity file", path));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::InvalidArgumentError(fmt::format("{} cannot be read", path));
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace

std::string FingerprintModel(const WeightSource& weights) {
  RunningHash128 hash;
  for (const TensorInfo& tensor : weights.tensors()) {
    hash.Add(fmt::format("{} {} {}\n", tensor.name, static_cast<int>(tensor.dtype),
                         tensor.ShapeString()));
    if (tensor.shape.size() == 1 && tensor.bytes <= kMostVectorBytes) {
      hash.Add(weights.Data(tensor));
    }
  }
  return hash.GetText();
}

absl::Status WritePopularity(const std::string& path, const Popularity& popularity,
                             std::string_view fingerprint) {
  const Header header = MakeHeader(popularity.layers, popularity.experts, fingerprint);
  const auto append = [](const void* data, size_t bytes, std::string* to) {
    to->append(static_cast<const char*>(data), bytes);
  };
  std::string text;
  append(&header, sizeof(header), &text);
  append(popularity.rate.data(), popularity.rate.size() * sizeof(popularity.rate[0]), &text);
  const uint64_t sum = Checksum(text);
  append(&sum, sizeof(sum), &text);
  return ReplaceFile(path, text);
}

absl::StatusOr<Popularity> ReadPopularity(const std::string& path, const PolicyShape& shape,
                                          std::string_view fingerprint) {
  HOSTLER_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path));
  if (text.size() < sizeof(Header) || !text.starts_with(kMagic)) {
    return absl::InvalidArgumentError(fmt::format("{} is no popularity file", path));
  }
  Header header;
  std::memcpy(&header, text.data(), sizeof(header));
  const uint64_t rates = uint64_t{header.layers} * header.experts;
  uint64_t sum = 0;
  if (text.size() < sizeof(header) + sizeof(sum) ||
      rates != (text.size() - sizeof(header) - sizeof(sum)) / sizeof(float) ||
      text.size() != sizeof(header) + rates * sizeof(float) + sizeof(sum)) {
    return absl::DataLossError(fmt::format("{} is damaged: its size is wrong", path));
  }
  std::memcpy(&sum, text.data() + text.size() - sizeof(sum), sizeof(sum));
  if (sum != Checksum(std::string_view(text).substr(0, text.size() - sizeof(sum)))) {
    return absl::DataLossError(fmt::format("{} is damaged: its checksum is wrong", path));
  }
  const Header expected = MakeHeader(shape.layers, shape.experts, fingerprint);
  if (std::memcmp(&header, &expected, sizeof(header)) != 0) {
    return absl::FailedPreconditionError(fmt::format("{} is of another model", path));
  }
  Popularity popularity{shape.layers, shape.experts, std::vector<float>(rates)};
  std::memcpy(popularity.rate.data(), text.data() + sizeof(header), rates * sizeof(float));
  for (const float rate : popularity.rate) {
    // A policy would go by them.
    if (!(rate >= 0 && rate <= 1)) {
      return absl::DataLossError(fmt::format("{} is damaged: {} is no rate", path, rate));
    }
  }
  return popularity;
}

std::vector<ExpertKey> MostPopular(const Popularity& popularity) {
  std::vector<int> order(popularity.rate.size());
  std::iota(order.begin(), order.end(), 0);
  std::erase_if(order, [&](int i) { return popularity.rate[i] <= 0; });
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return popularity.rate[a] > popularity.rate[b]; });
  std::vector<ExpertKey> keys;
  for (const int i : order) keys.push_back({i / popularity.experts, i % popularity.experts});
  return keys;
}

WarmStart::WarmStart(Options options) : options_(std::move(options)) {
  absl::StatusOr<Popularity> last =
      ReadPopularity(options_.path, options_.shape, options_.fingerprint);
  if (last.ok()) {
    last_ = *std::move(last);
  } else if (!absl::IsNotFound(last.status())) {
    // Ours may be replaced, nothing else.
    writable_ = !absl::IsInvalidArgument(last.status());
    options_.warn(fmt::format("the expert cache starts cold: {}{}",
                              std::string(last.status().message()),
                              writable_ ? "" : "; it is left as it is"));
  }
  if (!writable_) return;
  const fs::path parent = fs::path(options_.path).parent_path();
  const std::string directory = parent.empty() ? "." : parent.string();
  if (access(directory.c_str(), W_OK) == 0) return;
  writable_ = false;
  options_.warn(fmt::format("which experts are popular is not saved: {}",
                            std::string(ErrnoStatus(directory, "cannot be written to").message())));
}

WarmStart::~WarmStart() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
  Save();
}

void WarmStart::KeepSaving(std::function<Popularity()> now) {
  if (!writable_) return;
  now_ = std::move(now);
  saved_ = now_().rate;
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error& error) {
    options_.warn(
        fmt::format("which experts are popular is saved on drain only: {}", error.what()));
  }
}

void WarmStart::Run() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, options_.interval, [this] { return stopping_; })) {
    lock.unlock();
    Save();
    lock.lock();
  }
}

void WarmStart::Save() {
  if (!now_) return;
  std::lock_guard lock(save_mutex_);
  Popularity popularity = now_();
  if (popularity.rate == saved_) return;
  std::vector<float> exported = popularity.rate;
  for (float& rate : popularity.rate) rate = rate > 0 ? std::min(rate, 1.0f) : 0;
  const absl::Status status = WritePopularity(options_.path, popularity, options_.fingerprint);
  if (status.ok()) saved_ = std::move(exported);
  if (!status.ok() && !failed_) {
    options_.warn(
        fmt::format("which experts are popular is not saved: {}", std::string(status.message())));
  }
  failed_ = !status.ok();
}

}  // namespace hostler
