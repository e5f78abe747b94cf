// Replays a trace of prompts' blocks (Mooncake's JSON lines: "hash_ids") through
// the prefix cache that serves, and beside it through ideal caches of the same
// size: LRU, and Belady's, which knows the future. Requests are served one by one.
//
//   prefix_replay ../shared/data/traces/mooncake_conversation.jsonl
//
// "Computing" weighs a block by what it takes to compute again: 1, and 1 more for
// every 8192 tokens before it.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <limits>
#include <list>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "CLI/CLI.hpp"
#include "engine/kv/prefix_cache.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace hostler {
namespace {

struct Prompt {
  std::vector<int32_t> ids;  // of its blocks, each of which names all before it too
  size_t full = 0;           // blocks; what is not full is not cached
};

std::vector<Prompt> ReadTrace(const std::string& path, int block_tokens) {
  std::vector<Prompt> prompts;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto row = nlohmann::json::parse(line);
    Prompt& prompt = prompts.emplace_back();
    prompt.ids = row["hash_ids"].get<std::vector<int32_t>>();
    prompt.full = std::min(prompt.ids.size(), row["input_length"].get<size_t>() / block_tokens);
  }
  return prompts;
}

// Found, or all there is.
class Tally {
 public:
  explicit Tally(int block_tokens) : block_tokens_(block_tokens) {}

  // The first `count` blocks of a prompt.
  void Add(size_t count) {
    blocks_ += double(count);
    for (size_t i = 0; i < count; ++i) computing_ += 1 + double(i) * block_tokens_ / 8192;
  }
  double blocks() const { return blocks_; }
  double computing() const { return computing_; }

 private:
  int block_tokens_;
  double blocks_ = 0, computing_ = 0;
};

Tally Ours(const std::vector<Prompt>& prompts, int capacity, int block_tokens) {
  PrefixCache cache(BlockPool(capacity), {.block_tokens = block_tokens});
  Tally hits(block_tokens);
  std::vector<int32_t> tokens(block_tokens);
  for (const Prompt& prompt : prompts) {
    std::vector<int32_t> blocks;
    const auto content = [&] {
      std::fill(tokens.begin(), tokens.end(), prompt.ids[blocks.size()]);
      return PrefixCache::Content{.parent = blocks.empty() ? PrefixCache::kNone : blocks.back(),
                                  .tokens = tokens};
    };
    while (blocks.size() < prompt.full) {
      const auto found = cache.Take(content());
      if (!found.has_value()) break;
      blocks.push_back(*found);
    }
    hits.Add(blocks.size());
    while (blocks.size() < prompt.full) {
      const auto block = cache.Allocate();
      if (!block.has_value()) break;  // the prompt is larger than the cache
      blocks.push_back(*cache.Insert(content(), *block));
    }
    cache.Release(blocks);
  }
  return hits;
}

// After each request its blocks are the most recent, the first one most of all.
Tally Lru(const std::vector<Prompt>& prompts, size_t capacity, int block_tokens) {
  std::list<int32_t> order;  // the oldest first
  std::unordered_map<int32_t, std::list<int32_t>::iterator> at;
  Tally hits(block_tokens);
  for (const Prompt& prompt : prompts) {
    const auto missing = std::find_if(prompt.ids.begin(), prompt.ids.end(),
                                      [&](int32_t id) { return !at.contains(id); });
    hits.Add(missing - prompt.ids.begin());
    for (auto id = prompt.ids.rbegin(); id != prompt.ids.rend(); ++id) {
      if (const auto found = at.find(*id); found != at.end()) order.erase(found->second);
      at[*id] = order.insert(order.end(), *id);
    }
    while (order.size() > capacity) {
      at.erase(order.front());
      order.pop_front();
    }
  }
  return hits;
}

// Keeps what is wanted soonest; a block is wanted no sooner than what it stands on.
Tally Belady(const std::vector<Prompt>& prompts, size_t capacity, int block_tokens) {
  constexpr size_t kNever = std::numeric_limits<size_t>::max();
  std::vector<std::vector<size_t>> next(prompts.size());
  std::unordered_map<int32_t, size_t> soonest;
  for (size_t i = prompts.size(); i-- > 0;) {
    for (const int32_t id : prompts[i].ids) {
      const auto found = soonest.find(id);
      next[i].push_back(found == soonest.end() ? kNever : found->second);
    }
    for (const int32_t id : prompts[i].ids) soonest[id] = i;
  }
  using Entry = std::tuple<size_t, size_t, int32_t>;  // next use, depth, id
  std::set<Entry> cached;
  std::unordered_map<int32_t, Entry> by_id;
  Tally hits(block_tokens);
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<int32_t>& ids = prompts[i].ids;
    const auto missing =
        std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return !by_id.contains(id); });
    hits.Add(missing - ids.begin());
    for (size_t depth = 0; depth < ids.size(); ++depth) {
      if (const auto found = by_id.find(ids[depth]); found != by_id.end()) {
        cached.erase(found->second);
        by_id.erase(found);
      }
      if (next[i][depth] == kNever) continue;
      const Entry entry(next[i][depth], depth, ids[depth]);
      cached.insert(entry);
      by_id[ids[depth]] = entry;
    }
    while (cached.size() > capacity) {
      by_id.erase(std::get<2>(*cached.rbegin()));
      cached.erase(std::prev(cached.end()));
    }
  }
  return hits;
}

int Run(int argc, char** argv) {
  CLI::App app("Hit rates of the prefix cache over a trace of prompts' blocks");
  std::string path;
  int block_tokens = 512;
  std::vector<int> sizes = {1000, 3000, 5000, 10000, 20000, 30000, 50000, 150000};
  app.add_option("trace", path, "JSON lines with hash_ids and input_length")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("--block-tokens", block_tokens, "Of the trace's blocks")->capture_default_str();
  app.add_option("--blocks", sizes, "Sizes of the cache")->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  const std::vector<Prompt> prompts = ReadTrace(path, block_tokens);
  Tally all(block_tokens);
  for (const Prompt& prompt : prompts) all.Add(prompt.ids.size());
  fmt::print("{} prompts, {} blocks; found, % of blocks and of computing\n\n", prompts.size(),
             all.blocks());
  fmt::print("| capacity | ours | LRU | Belady | computing: ours | LRU | Belady |\n");
  fmt::print("|---|---|---|---|---|---|---|\n");
  for (const int size : sizes) {
    const std::array found = {Ours(prompts, size, block_tokens), Lru(prompts, size, block_tokens),
                              Belady(prompts, size, block_tokens)};
    fmt::print("| {}", size);
    for (const Tally& tally : found) fmt::print(" | {:.2f}", 100 * tally.blocks() / all.blocks());
    for (const Tally& tally : found) {
      fmt::print(" | {:.2f}", 100 * tally.computing() / all.computing());
    }
    fmt::print(" |\n");
  }
  return 0;
}

}  // namespace
}  // namespace hostler

int main(int argc, char** argv) { return hostler::Run(argc, argv); }
