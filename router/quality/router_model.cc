#include "router/quality/router_model.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <span>

#include "engine/base/checksum.h"
#include "engine/base/status.h"
#include "fmt/format.h"

namespace hostler {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kMagic = "HSTLROUT";
constexpr uint32_t kVersion = 4;
constexpr size_t kHeaderBytes = 8 + 4 + 8;  // magic, version, length of the file
constexpr size_t kMaxName = 4096, kMaxGroups = 64;

absl::Status Bad(const std::string& what) { return absl::InvalidArgumentError(what); }

class Writer {
 public:
  template <typename T>
  void Value(T value) {
    out_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  template <typename T>
  void Array(const std::vector<T>& values) {
    Value<uint64_t>(values.size());
    out_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
  void Text(const std::string& text) {
    Value<uint32_t>(text.size());
    out_ += text;
  }
  std::string& out() { return out_; }

 private:
  std::string out_;
};

// Once something is wrong, everything read is empty and ok() is false.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  T Value() {
    T value{};
    if (!Has(sizeof(value))) return value;
    std::memcpy(&value, bytes_.data(), sizeof(value));
    bytes_.remove_prefix(sizeof(value));
    return value;
  }
  template <typename T>
  std::vector<T> Array() {
    const uint64_t count = Value<uint64_t>();
    if (count > bytes_.size() / sizeof(T)) ok_ = false;
    if (!ok_ || count == 0) return {};
    std::vector<T> values(count);
    std::memcpy(values.data(), bytes_.data(), count * sizeof(T));
    bytes_.remove_prefix(count * sizeof(T));
    return values;
  }
  std::string Text() {
    const uint32_t size = Value<uint32_t>();
    if (size > kMaxName || !Has(size)) {
      ok_ = false;
      return "";
    }
    std::string text(bytes_.substr(0, size));
    bytes_.remove_prefix(size);
    return text;
  }
  bool ok() const { return ok_; }
  bool done() const { return ok_ && bytes_.empty(); }

 private:
  bool Has(size_t bytes) { return ok_ = ok_ && bytes_.size() >= bytes; }

  std::string_view bytes_;
  bool ok_ = true;
};

RouterGroup ReadGroup(Reader* in) {
  RouterGroup group;
  group.name = in->Text();
  const uint32_t models = in->Value<uint32_t>();
  for (uint32_t m = 0; m < models && m <= kMaxGroupModels && in->ok(); ++m) {
    group.models.push_back(in->Text());
  }
  group.topics = in->Array<int32_t>();
  group.sharpness = in->Value<float>();
  group.first_head = in->Value<int32_t>();
  group.mean = in->Array<float>();
  group.basis = in->Array<float>();
  group.theta = in->Array<float>();
  group.head = in->Array<float>();
  group.length = in->Array<float>();
  group.neighbours.count = in->Value<int32_t>();
  group.neighbours.weight = in->Value<float>();
  group.neighbours.embeddings = in->Array<int8_t>();
  group.neighbours.scale = in->Array<float>();
  group.neighbours.quality = in->Array<uint8_t>();
  return group;
}

void WriteGroup(const RouterGroup& group, Writer* out) {
  out->Text(group.name);
  out->Value<uint32_t>(group.models.size());
  for (const std::string& model : group.models) out->Text(model);
  out->Array(group.topics);
  out->Value(group.sharpness);
  out->Value(group.first_head);
  out->Array(group.mean);
  out->Array(group.basis);
  out->Array(group.theta);
  out->Array(group.head);
  out->Array(group.length);
  out->Value(group.neighbours.count);
  out->Value(group.neighbours.weight);
  out->Array(group.neighbours.embeddings);
  out->Array(group.neighbours.scale);
  out->Array(group.neighbours.quality);
}

// Beyond this a product of two could overflow; no honest model comes near.
bool AllSane(std::span<const float> values) {
  for (const float value : values) {
    if (!(std::abs(value) < 1e9f)) return false;
  }
  return true;
}

absl::Status CheckNeighbours(const NeighbourIndex& index, size_t size, size_t models) {
  const size_t rows = index.scale.size();
  if (rows > kMaxNeighbourRows || (rows > 0 && size == 0) ||
      index.embeddings.size() != rows * size || index.quality.size() != rows * models) {
    return Bad("the sizes of an index of neighbours do not agree");
  }
  if (index.count < 0 || index.count > kMaxNeighbours || !(index.weight >= 0) ||
      !(index.weight <= 1) || !AllSane(index.scale)) {
    return Bad("an index of neighbours holds what is out of bounds");
  }
  return absl::OkStatus();
}

absl::Status CheckGroup(const RouterModel& model, const RouterGroup& group) {
  const size_t models = group.models.size(), directions = group.head.size();
  if (models == 0 || models > kMaxGroupModels) return Bad("a group has no models, or too many");
  for (const std::string& name : group.models) {
    if (name.empty() || name.size() > kMaxName) return Bad("a model's name is empty or too long");
  }
  if (group.name.size() > kMaxName) return Bad("a group's name is too long");
  if (group.topics.empty()) return Bad("a group has no topics");
  for (const int32_t topic : group.topics) {
    if (topic < 0 || topic >= model.topics) return Bad("a topic is out of bounds");
  }
  if (directions > kMaxOutputs || group.basis.size() != models * directions ||
      group.theta.size() != group.topics.size() * directions || group.mean.size() != models ||
      (!group.length.empty() && group.length.size() != 2 * models)) {
    return Bad("the sizes of a group do not agree");
  }
  if (group.first_head < 0 || group.heads() > model.heads ||
      group.first_head > model.heads - group.heads()) {
    return Bad("heads are out of bounds");
  }
  if (!AllSane({&group.sharpness, 1}) || !AllSane(group.basis) || !AllSane(group.theta) ||
      !AllSane(group.head) || !AllSane(group.mean) || !AllSane(group.length)) {
    return Bad("a group holds what is no sane number");
  }
  return CheckNeighbours(group.neighbours, model.embedding_size, models);
}

}  // namespace

absl::Status CheckRouterModel(const RouterModel& model) {
  if (model.hash_bits < 4 || model.hash_bits > kMaxHashBits || model.embedding_size < 0 ||
      model.embedding_size > kMaxEmbedding) {
    return Bad("the count of features is out of bounds");
  }
  if (model.encoder.size() > kMaxName || model.encoder_tokens < 0 ||
      model.encoder.empty() != (model.encoder_tokens == 0) ||
      (!model.encoder.empty() && model.embedding_size == 0)) {
    return Bad("what it says of its encoder does not agree");
  }
  if (model.topics < 1 || model.topics > kMaxOutputs || model.heads < 0 ||
      model.heads > kMaxOutputs - model.topics) {
    return Bad("the counts of topics and heads are out of bounds");
  }
  const size_t features = model.features();
  if (model.idf.size() != features || model.row_scale.size() != features ||
      model.weights.size() != features * model.outputs() ||
      model.bias.size() != static_cast<size_t>(model.topics)) {
    return Bad("the sizes of the weights do not agree");
  }
  if (!AllSane(model.idf) || !AllSane(model.row_scale) || !AllSane(model.bias)) {
    return Bad("the weights hold what is no sane number");
  }
  if (model.groups.empty() || model.groups.size() > kMaxGroups) {
    return Bad("there are no groups, or too many");
  }
  for (const RouterGroup& group : model.groups) HOSTLER_RETURN_IF_ERROR(CheckGroup(model, group));
  return absl::OkStatus();
}

std::string SerializeRouterModel(const RouterModel& model) {
  Writer out;
  out.out() = kMagic;
  out.Value(kVersion);
  out.Value<uint64_t>(0);  // the length, below
  out.Value(model.hash_bits);
  out.Value(model.embedding_size);
  out.Value(model.topics);
  out.Value(model.heads);
  out.Text(model.encoder);
  out.Value(model.encoder_tokens);
  out.Array(model.idf);
  out.Array(model.row_scale);
  out.Array(model.weights);
  out.Array(model.bias);
  out.Value<uint32_t>(model.groups.size());
  for (const RouterGroup& group : model.groups) WriteGroup(group, &out);
  const uint64_t length = out.out().size() + sizeof(uint64_t);
  std::memcpy(out.out().data() + kMagic.size() + sizeof(kVersion), &length, sizeof(length));
  out.Value<uint64_t>(Checksum(out.out()));
  return std::move(out.out());
}

absl::StatusOr<RouterModel> ParseRouterModel(std::string_view bytes) {
  if (bytes.size() < kHeaderBytes + sizeof(uint64_t) || !bytes.starts_with(kMagic)) {
    return Bad("not a router file");
  }
  Reader header(bytes.substr(kMagic.size()));
  if (const uint32_t version = header.Value<uint32_t>(); version != kVersion) {
    return Bad(fmt::format("version {} of router files; this program reads version {}: train anew",
                           version, kVersion));
  }
  if (const uint64_t length = header.Value<uint64_t>(); length != bytes.size()) {
    return Bad(fmt::format("{} bytes, but it says {}: truncated, or something follows",
                           bytes.size(), length));
  }
  const size_t body = bytes.size() - sizeof(uint64_t);
  if (Reader(bytes.substr(body)).Value<uint64_t>() != Checksum(bytes.substr(0, body))) {
    return Bad("the checksum is wrong: the file is damaged");
  }
  Reader in(bytes.substr(kHeaderBytes, body - kHeaderBytes));
  RouterModel model;
  model.hash_bits = in.Value<int32_t>();
  model.embedding_size = in.Value<int32_t>();
  model.topics = in.Value<int32_t>();
  model.heads = in.Value<int32_t>();
  model.encoder = in.Text();
  model.encoder_tokens = in.Value<int32_t>();
  model.idf = in.Array<float>();
  model.row_scale = in.Array<float>();
  model.weights = in.Array<int8_t>();
  model.bias = in.Array<float>();
  const uint32_t groups = in.Value<uint32_t>();
  for (uint32_t g = 0; g < groups && g <= kMaxGroups && in.ok(); ++g) {
    model.groups.push_back(ReadGroup(&in));
  }
  if (!in.done()) return Bad("the sizes in the file do not agree");
  HOSTLER_RETURN_IF_ERROR(CheckRouterModel(model));
  return model;
}

}  // namespace hostler
