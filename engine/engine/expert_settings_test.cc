// What an operator may set of the expert cache: none of it changes a token.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "cache/policy.h"
#include "cache/replay.h"
#include "cache/trace.h"
#include "engine/engine/engine.h"
#include "engine/engine/served_experts.h"
#include "engine/engine/warm_start.h"
#include "engine/model/loader.h"
#include "engine/model/pack.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Method = ReaderOptions::Method;

constexpr char kModel[] = HOSTLER_SOURCE_DIR "/models/sample-moe";
constexpr char kDenseModel[] = HOSTLER_SOURCE_DIR "/models/sample-dense";

std::string Message(const absl::Status& status) { return std::string(status.message()); }

class ExpertSettingsTest : public ::testing::Test {
 protected:
  ExpertSettingsTest()
      : folder_(fs::path(::testing::TempDir()) / ("expert_settings_" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
    options_.memory_bytes = uint64_t{512} << 20;
    options_.threads = 1;
    options_.on_warning = [this](const std::string& text) {
      std::lock_guard lock(mutex_);
      warnings_.push_back(text);
    };
  }
  ~ExpertSettingsTest() override { fs::remove_all(folder_); }

  std::unique_ptr<Engine> Load(const std::string& model = kModel) {
    auto engine = Engine::Load(model, options_);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return engine.ok() ? *std::move(engine) : nullptr;
  }

  // A share of the model's experts.
  void LimitExperts(int percent) {
    static const uint64_t all = Load()->memory().all_experts;
    options_.expert_memory_bytes = all * percent / 100;
  }

  static std::vector<int32_t> Ask(Engine& engine, int seed = 1, int tokens = 24) {
    std::vector<int32_t> prompt;
    for (int i = 0; i < 40; ++i) prompt.push_back(3 + (i * 37 + seed * 101) % 4000);
    GenerateRequest request;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.max_tokens = tokens;
    request.ignore_eos = true;
    std::vector<int32_t> answer;
    auto stream = engine.Submit(request);
    EXPECT_TRUE(stream.ok()) << stream.status();
    if (!stream.ok()) return answer;
    while (auto event = (*stream)->Pop()) {
      answer.insert(answer.end(), event->token_ids.begin(), event->token_ids.end());
    }
    EXPECT_TRUE((*stream)->status().ok()) << (*stream)->status();
    return answer;
  }

  static void WaitForPreloads(const Engine& engine) {
    for (int i = 0; i < 6000; ++i) {
      const ExpertCacheStats stats = engine.stats().experts;
      if (stats.preloads_left + stats.reads_in_flight == 0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    FAIL() << "still reading";
  }

  std::vector<std::string> warnings() {
    std::lock_guard lock(mutex_);
    return warnings_;
  }

  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }

  const fs::path folder_;
  EngineOptions options_;

 private:
  std::mutex mutex_;
  std::vector<std::string> warnings_;
};

TEST_F(ExpertSettingsTest, EveryPolicyGivesTheSameTokens) {
  const std::vector<int32_t> expected = Ask(*Load());
  LimitExperts(25);
  for (const std::string_view policy : EvictionPolicyNames()) {
    options_.expert_policy = policy;
    const auto engine = Load();
    EXPECT_EQ(Ask(*engine), expected) << policy;
    EXPECT_GT(engine->stats().experts.evictions, 0u) << policy;
  }
}

TEST_F(ExpertSettingsTest, EveryWayToReadGivesTheSameTokens) {
  const std::vector<int32_t> expected = Ask(*Load());
  LimitExperts(25);
  for (const Method method : {Method::kAuto, Method::kPread}) {
    for (const DirectIo direct : {DirectIo::kAuto, DirectIo::kOff}) {
      options_.expert_io = method;
      options_.expert_direct_io = direct;
      EXPECT_EQ(Ask(*Load()), expected) << int(method) << " " << int(direct);
    }
  }
  // These two may not exist here.
  options_.expert_io = Method::kUring;
  options_.expert_direct_io = DirectIo::kOn;
  const auto engine = Engine::Load(kModel, options_);
  if (engine.ok()) {
    EXPECT_EQ(Ask(**engine), expected);
  } else {
    EXPECT_THAT(Message(engine.status()), HasSubstr("expert_io"));
  }
}

TEST_F(ExpertSettingsTest, APolicyThatThereIsNotIsAnError) {
  options_.expert_policy = "mru";
  EXPECT_THAT(Message(Engine::Load(kModel, options_).status()),
              AllOf(HasSubstr("mru"), HasSubstr("learned")));
}

// The kernel knows io_uring no more, for this process and for good.
void RefuseIoUring() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {std::size(code), code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    std::perror("seccomp");
    std::exit(1);
  }
}

TEST_F(ExpertSettingsTest, AnIoUringThatTheKernelRefusesIsAnErrorOnlyIfAskedFor) {
  EXPECT_EXIT(
      {
        RefuseIoUring();
        options_.expert_io = Method::kAuto;
        if (!Engine::Load(kModel, options_).ok()) std::exit(2);
        options_.expert_io = Method::kUring;
        const auto engine = Engine::Load(kModel, options_);
        std::fprintf(stderr, "%s\n", engine.status().ToString().c_str());
        std::exit(engine.ok() ? 3 : 0);
      },
      ::testing::ExitedWithCode(0), "UNIMPLEMENTED: .*expert_io.*io_uring: ");
}

TEST_F(ExpertSettingsTest, PinnedExpertsAreLoadedAtTheStartAndChangeNoToken) {
  const std::vector<int32_t> expected = Ask(*Load());
  options_.expert_pins = Write("pins", "0 0-3\n1 2  # one\n");
  LimitExperts(25);
  for (const std::string_view policy : EvictionPolicyNames()) {
    options_.expert_policy = policy;
    const auto engine = Load();
    WaitForPreloads(*engine);
    const ExpertCacheStats before = engine->stats().experts;
    EXPECT_EQ(before.resident_bytes, 5 * engine->memory().slot);
    EXPECT_EQ(before.preload_bytes, before.read_bytes);
    EXPECT_EQ(Ask(*engine), expected) << policy;
    // They stand in the way of a smaller budget.
    const auto split = engine->SetExpertMemory(5 * engine->memory().slot);
    EXPECT_THAT(Message(split.status()), HasSubstr("must be between"));
    EXPECT_TRUE(engine->SetExpertMemory(6 * engine->memory().slot).ok());
    EXPECT_EQ(Ask(*engine), expected) << policy;
  }
}

TEST_F(ExpertSettingsTest, PinsThatCannotBeHadAreErrorsThatSayWhy) {
  const uint64_t slot = Load()->memory().slot;
  const auto error = [this](const std::string& pins) {
    options_.expert_pins = Write("pins", pins);
    return Message(Engine::Load(kModel, options_).status());
  };
  EXPECT_THAT(error("0 0\n0 99999\n"),
              AllOf(HasSubstr("expert_pins"), HasSubstr("line 2"), HasSubstr("no expert 99999")));
  EXPECT_THAT(error("99 0\n"), HasSubstr("no layer 99"));
  EXPECT_THAT(error("what\n"), HasSubstr("line 1"));
  options_.expert_memory_bytes = 4 * slot;
  EXPECT_THAT(error("0 0-3\n"), HasSubstr("pinned"));
  options_.expert_pins = (folder_ / "nowhere").string();
  EXPECT_THAT(Message(Engine::Load(kModel, options_).status()), HasSubstr("nowhere"));
  options_.expert_pins = Write("pins", "0 0\n");
  EXPECT_THAT(Message(Engine::Load(kDenseModel, options_).status()), HasSubstr("no experts"));
}

TEST_F(ExpertSettingsTest, ARestartedEngineBeginsWithWhatWasPopular) {
  LimitExperts(40);
  options_.expert_prefetch = Prefetch::kOff;  // whose hits depend on time
  const std::vector<int32_t> expected = Ask(*Load());
  const auto hits_of_first = [this, &expected](bool warm) {
    const auto engine = Load();
    WaitForPreloads(*engine);
    EXPECT_EQ(engine->stats().experts.resident_bytes > engine->memory().experts / 2, warm);
    EXPECT_EQ(Ask(*engine), expected);
    const uint64_t hits = engine->stats().experts.hits;
    for (int i = 0; i < 4; ++i) Ask(*engine, i);
    return hits;
  };
  options_.expert_popularity = (folder_ / "popularity").string();
  for (const std::string_view policy : {"learned", "ema", "lfru", "forward_distance"}) {
    fs::remove(options_.expert_popularity);
    options_.expert_policy = policy;
    const uint64_t cold = hits_of_first(false);
    EXPECT_TRUE(fs::exists(options_.expert_popularity)) << policy;
    EXPECT_GT(hits_of_first(true), cold) << policy;
  }
  EXPECT_THAT(warnings(), IsEmpty());
}

TEST_F(ExpertSettingsTest, DrainSavesWhatIsPopular) {
  LimitExperts(40);
  options_.expert_popularity = (folder_ / "popularity").string();
  const auto engine = Load();
  Ask(*engine);
  engine->Drain(1000);
  EXPECT_TRUE(fs::exists(options_.expert_popularity));
}

TEST_F(ExpertSettingsTest, APopularityFileThatDoesNotBelongMakesAColdStartAndAWarning) {
  LimitExperts(40);
  options_.expert_popularity = Write("popularity", "HOSTPOP1" + std::string(500, 'x'));
  EXPECT_EQ(Load()->stats().experts.preload_bytes, 0u);
  EXPECT_THAT(warnings(), ElementsAre(AllOf(HasSubstr("cold"), HasSubstr("damaged"))));
  ASSERT_TRUE(WritePopularity(options_.expert_popularity, {8, 32, std::vector<float>(8 * 32, 0.5f)},
                              std::string(32, 'a'))
                  .ok());
  const auto engine = Load();
  EXPECT_EQ(engine->stats().experts.preload_bytes, 0u);
  EXPECT_THAT(warnings(), Contains(AllOf(HasSubstr("cold"), HasSubstr("another model"))));
  EXPECT_EQ(Ask(*engine).size(), 24u);
}

TEST_F(ExpertSettingsTest, AutomaticPopularityLiesInAPackedStore) {
  const std::string store = (folder_ / "packed").string();
  const auto packed = PackModel(kModel, store, {});
  ASSERT_TRUE(packed.ok()) << packed.status();
  LimitExperts(40);
  options_.expert_popularity = "auto";
  Ask(*Load(store));
  EXPECT_TRUE(fs::exists(fs::path(store) / "popularity.bin"));
  const auto report = VerifyPacked(store, [](uint64_t, uint64_t) { return true; });
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->problems, IsEmpty());
  const auto engine = Load(store);
  WaitForPreloads(*engine);
  EXPECT_GT(engine->stats().experts.preload_bytes, 0u);
  // Elsewhere it is off.
  Ask(*Load());
  EXPECT_FALSE(fs::exists(fs::path(kModel) / "popularity.bin"));
  EXPECT_THAT(warnings(), IsEmpty());
}

TEST_F(ExpertSettingsTest, WhereThereIsRoomForAllTheyAreReadBeforeTheyAreAskedFor) {
  const std::vector<int32_t> expected = Ask(*Load());
  options_.expert_preload = true;
  const auto engine = Load();
  WaitForPreloads(*engine);
  const ExpertCacheStats before = engine->stats().experts;
  EXPECT_EQ(before.preload_reads, 8u * 32);
  EXPECT_EQ(Ask(*engine), expected);
  EXPECT_EQ(engine->stats().experts.reads, before.reads);
  LimitExperts(40);
  EXPECT_EQ(Load()->stats().experts.preload_bytes, 0u);
}

TEST_F(ExpertSettingsTest, AServedRunsTraceCanBeReplayed) {
  constexpr int kLayers = 8, kTopk = 4;
  const std::vector<int32_t> expected = Ask(*Load());
  options_.expert_trace = (folder_ / "trace.csv").string();
  EXPECT_EQ(Ask(*Load()), expected);
  const auto trace = ReadExpertTrace(options_.expert_trace);
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->header.layers, kLayers);
  // 40 tokens of the prompt; the last of the 24 is not computed.
  ASSERT_EQ(trace->lines.size(), size_t{kLayers * (40 + 23)});
  for (size_t i = 0; i < trace->lines.size(); ++i) {
    EXPECT_EQ(trace->lines[i].decode, i >= kLayers * 40) << i;
  }
  EXPECT_EQ(trace->lines.back().step, 62);
  const RequestList requests(*trace);
  const auto policy = NewEvictionPolicy("default", requests.shape());
  const ReplayCounts counts = Replay(requests, {.capacity = kLayers * 32}, policy->get());
  EXPECT_EQ(counts.lookups, kLayers * 23 * kTopk);
  EXPECT_GT(counts.hits, counts.lookups / 2);
  EXPECT_THAT(warnings(), IsEmpty());
}

TEST_F(ExpertSettingsTest, ATraceEndsAtItsSizeAndServingGoesOn) {
  options_.expert_trace = (folder_ / "trace.csv").string();
  options_.expert_trace_bytes = 30000;
  {
    const auto engine = Load();
    EXPECT_EQ(Ask(*engine, 1, 400).size(), 400u);
    EXPECT_EQ(Ask(*engine, 2, 400).size(), 400u);
  }
  EXPECT_LE(fs::file_size(options_.expert_trace), 30000u);
  EXPECT_TRUE(ReadExpertTrace(options_.expert_trace).ok());
  EXPECT_THAT(warnings(), ElementsAre(HasSubstr("recording has ended")));
}

TEST_F(ExpertSettingsTest, ATraceThatCannotBeWrittenIsAnError) {
  options_.expert_trace = (folder_ / "nowhere" / "trace.csv").string();
  EXPECT_THAT(Message(Engine::Load(kModel, options_).status()), HasSubstr("nowhere"));
}

// What becomes of the options, below the engine.
class ServedExpertsTest : public ExpertSettingsTest {
 protected:
  void SetUp() override {
    auto backend = NewCpuBackend(1);
    ASSERT_TRUE(backend.ok()) << backend.status();
    auto model = LoadModel(kModel, {}, *std::move(backend));
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    auto experts = ServedExperts::Create(*model_.model, *model_.weights, options_);
    ASSERT_TRUE(experts.ok()) << experts.status();
    (*experts)->AddNeeds(&needs_);
  }

  std::unique_ptr<ServedExperts> Start(uint64_t bytes) {
    auto experts = ServedExperts::Create(*model_.model, *model_.weights, options_);
    EXPECT_TRUE(experts.ok()) << experts.status();
    MemoryPlan plan;
    plan.experts = bytes;
    const absl::Status started = (*experts)->Start(plan, model_.backend.get());
    EXPECT_TRUE(started.ok()) << started;
    return *std::move(experts);
  }

  LoadedModel model_;
  MemoryNeeds needs_;
};

TEST_F(ServedExpertsTest, ServesWithThePolicyNamedUnlessItIsLruAndFindsNoUse) {
  const uint64_t all = needs_.all_experts, slot = needs_.slot;
  const auto serving = [this](const char* policy, uint64_t bytes) {
    options_.expert_policy = policy;
    return std::string(Start(bytes)->cache()->policy_name());
  };
  EXPECT_EQ(serving("default", all / 2), "learned");
  EXPECT_EQ(serving("default", all), "lru");
  EXPECT_EQ(serving("ema", all), "ema");
  EXPECT_EQ(serving("lfru", slot), "lfru");
  EXPECT_EQ(serving("lru", all / 2), "lru");
  EXPECT_THAT(warnings(), IsEmpty());
  EXPECT_EQ(serving("lru", slot), "learned");
  EXPECT_THAT(warnings(), ElementsAre(HasSubstr("learned in place of lru")));
}

TEST_F(ServedExpertsTest, PinnedExpertsAreNeverReadAgain) {
  options_.expert_pins = Write("pins", "2 1\n2 5\n");
  const auto experts = Start(4 * needs_.slot);
  ExpertCache& cache = *experts->cache();
  const auto use = [&cache](int layer, const std::vector<int>& wanted) {
    auto acquisition = cache.Acquire({layer, wanted, {}, {}});
    while (!acquisition.Next().empty()) {
    }
  };
  use(2, {1, 5});
  const ExpertCacheStats before = cache.stats();
  for (int round = 0; round < 3; ++round) {
    for (int layer = 0; layer < 4; ++layer) use(layer, {0, 2, 3, 4, 6, 7});
    use(2, {1, 5});
  }
  EXPECT_EQ(cache.stats().hits, before.hits + 6) << "of others none stays so long";
  EXPECT_GT(cache.stats().evictions, 0u);
}

TEST_F(ServedExpertsTest, ReadsAsAsked) {
  options_.expert_io = Method::kPread;
  EXPECT_EQ(Start(needs_.slot)->cache()->reader_name(), "pread");
}

}  // namespace
}  // namespace hostler
