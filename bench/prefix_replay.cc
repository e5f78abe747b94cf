// Replays a trace of prompts' blocks (Mooncake's JSON lines: "hash_ids") through
// the prefix cache that serves, and beside it through ideal caches of the same
// size: LRU, and Belady's, which knows the future. Requests are served one by one.
#include <algorithm>
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

// Blocks found, a block of the trace standing for one of a token.
uint64_t Ours(const std::vector<Prompt>& prompts, int capacity) {
  PrefixCache cache(BlockPool(capacity), {.block_tokens = 1});
  uint64_t hits = 0;
  for (const Prompt& prompt : prompts) {
    std::vector<int32_t> blocks;
    const auto content = [&] {
      return PrefixCache::Content{.parent = blocks.empty() ? PrefixCache::kNone : blocks.back(),
                                  .tokens = {&prompt.ids[blocks.size()], 1}};
    };
    while (blocks.size() < prompt.full) {
      const auto found = cache.Take(content());
      if (!found.has_value()) break;
      blocks.push_back(*found);
    }
    hits += blocks.size();
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
uint64_t Lru(const std::vector<Prompt>& prompts, size_t capacity) {
  std::list<int32_t> order;  // the oldest first
  std::unordered_map<int32_t, std::list<int32_t>::iterator> at;
  uint64_t hits = 0;
  for (const Prompt& prompt : prompts) {
    for (const int32_t id : prompt.ids) {
      if (!at.contains(id)) break;
      ++hits;
    }
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
uint64_t Belady(const std::vector<Prompt>& prompts, size_t capacity) {
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
  uint64_t hits = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<int32_t>& ids = prompts[i].ids;
    for (const int32_t id : ids) {
      if (!by_id.contains(id)) break;
      ++hits;
    }
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
  std::vector<int> sizes = {1000, 3000, 5000, 10000, 20000, 30000, 50000, 200000};
  app.add_option("trace", path, "JSON lines with hash_ids and input_length")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("--block-tokens", block_tokens, "Of the trace's blocks")->capture_default_str();
  app.add_option("--blocks", sizes, "Sizes of the cache")->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  const std::vector<Prompt> prompts = ReadTrace(path, block_tokens);
  uint64_t blocks = 0;
  for (const Prompt& prompt : prompts) blocks += prompt.ids.size();
  fmt::print("{} prompts, {} blocks; found, % of blocks\n", prompts.size(), blocks);
  fmt::print("{:>10} {:>8} {:>8} {:>8}\n", "capacity", "ours", "LRU", "Belady");
  const auto percent = [&](uint64_t hits) { return 100.0 * hits / std::max<uint64_t>(blocks, 1); };
  for (const int size : sizes) {
    fmt::print("{:>10} {:>8.2f} {:>8.2f} {:>8.2f}\n", size, percent(Ours(prompts, size)),
               percent(Lru(prompts, size)), percent(Belady(prompts, size)));
  }
  return 0;
}

}  // namespace
}  // namespace hostler

int main(int argc, char** argv) { return hostler::Run(argc, argv); }
