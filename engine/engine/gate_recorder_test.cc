#include "engine/engine/gate_recorder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "engine/model/loader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hostler {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Of sample-moe.
constexpr int kLayers = 8, kTopk = 4;
constexpr int kStepRows = 64;

class GateRecorderTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto backend = NewCpuBackend(1);
    ASSERT_TRUE(backend.ok());
    auto model = LoadModel(HOSTLER_SOURCE_DIR "/models/sample-moe", {}, *std::move(backend));
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = std::make_unique<LoadedModel>(*std::move(model));
    ASSERT_EQ(model_->model->experts()->num_layers(), kLayers);
  }
  static void TearDownTestSuite() { model_ = nullptr; }

  GateRecorderTest() : file_(::testing::TempDir() + "gates_" + std::to_string(getpid()) + ".csv") {}
  ~GateRecorderTest() override { fs::remove(file_); }

  std::unique_ptr<GateRecorder> Create(bool wait = false, uint64_t max_bytes = 0) {
    auto recorder = GateRecorder::Create(
        {.path = file_,
         .max_bytes = max_bytes,
         .step_rows = kStepRows,
         .wait = wait,
         .warn = [this](const std::string& text) { warnings_.push_back(text); }},
        *model_->model);
    EXPECT_TRUE(recorder.ok()) << recorder.status();
    return *std::move(recorder);
  }

  // A step in which row r chooses experts r, r + 1, ... in layer 0, one further
  // on in each layer; strongest first.
  static void Step(GateRecorder& recorder, const StepBatch& batch, int chosen = kTopk) {
    int rows = 0;
    for (const auto& sequence : batch.sequences) rows += sequence.rows;
    recorder.BeginStep(batch);
    for (int layer = 0; layer < kLayers; ++layer) {
      ExpertSelection selection{{0}, {}, {}};
      for (int row = 0; row < rows; ++row) {
        for (int i = 0; i < chosen; ++i) {
          selection.experts.push_back((row + layer + i) % 32);
          selection.weights.push_back(2.0f * (chosen - i));
        }
        selection.offsets.push_back(static_cast<int>(selection.experts.size()));
      }
      recorder.Record(layer, selection);
    }
    recorder.EndStep();
  }

  static StepBatch Prompt(int rows, int position = 0) {
    StepBatch batch;
    batch.sequences = {{.rows = rows, .first_position = position, .prompt_tokens = 1000}};
    return batch;
  }

  ExpertTrace Read() {
    auto trace = ReadExpertTrace(file_);
    EXPECT_TRUE(trace.ok()) << trace.status();
    return trace.ok() ? *std::move(trace) : ExpertTrace();
  }

  static std::unique_ptr<LoadedModel> model_;
  const std::string file_;
  std::vector<std::string> warnings_;
};

std::unique_ptr<LoadedModel> GateRecorderTest::model_;

TEST_F(GateRecorderTest, WritesAStepSequenceBySequence) {
  const auto recorder = Create();
  StepBatch batch;
  batch.sequences = {{.first_row = 0, .rows = 1, .first_position = 7, .prompt_tokens = 7},
                     {.first_row = 1, .rows = 2, .first_position = 10, .prompt_tokens = 20},
                     {.first_row = 3, .rows = 1, .first_position = 4, .prompt_tokens = 5}};
  Step(*recorder, batch);
  ASSERT_TRUE(recorder->Finish().ok());
  const ExpertTrace trace = Read();
  EXPECT_EQ(trace.header.model, "sample-moe");
  EXPECT_EQ(trace.header.expert_bytes.size(), size_t{kLayers});
  ASSERT_EQ(trace.lines.size(), size_t{4 * kLayers});
  const auto expect_line = [&](int at, bool decode, int step, int layer, int row) {
    EXPECT_EQ(trace.lines[at].decode, decode) << at;
    EXPECT_EQ(trace.lines[at].step, step) << at;
    EXPECT_EQ(trace.lines[at].layer, layer) << at;
    EXPECT_EQ(trace.experts(at)[0], row + layer) << at;
  };
  for (int layer = 0; layer < kLayers; ++layer) {
    expect_line(layer, true, 7, layer, 0);
    expect_line(kLayers + 2 * layer, false, 10, layer, 1);
    expect_line(kLayers + 2 * layer + 1, false, 11, layer, 2);
    expect_line(3 * kLayers + layer, false, 4, layer, 3);  // the last row of its prompt
  }
  for (int i = 0; i < kTopk; ++i) EXPECT_NEAR(trace.weights[i], 0.1 * (kTopk - i), 1e-5);
}

TEST_F(GateRecorderTest, RowsOfFewerExpertsAreLeftOutAndCounted) {
  const auto recorder = Create();
  Step(*recorder, Prompt(3), kTopk - 1);
  Step(*recorder, Prompt(2));
  ASSERT_TRUE(recorder->Finish().ok());
  EXPECT_EQ(Read().lines.size(), size_t{2 * kLayers});
  EXPECT_EQ(recorder->counts().written, uint64_t{2 * kLayers});
  EXPECT_EQ(recorder->counts().left_out, uint64_t{3 * kLayers});
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(GateRecorderTest, WholeStepsCanBeReadWhileItRecords) {
  const auto recorder = Create();
  Step(*recorder, Prompt(2));
  for (int i = 0; i < 6000 && fs::file_size(file_) < 600; ++i) usleep(5000);
  EXPECT_EQ(Read().lines.size(), size_t{2 * kLayers});
}

TEST_F(GateRecorderTest, EndsBeforeTheFileGrowsTooLargeAndSaysSoOnce) {
  constexpr uint64_t kMost = 200'000;
  const auto recorder = Create(/*wait=*/true, kMost);
  for (int step = 0; step < 40; ++step) Step(*recorder, Prompt(kStepRows, step * kStepRows));
  EXPECT_FALSE(recorder->Finish().ok());
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("may grow to 195 KiB")));
  EXPECT_LE(fs::file_size(file_), kMost);
  const ExpertTrace trace = Read();
  EXPECT_GT(fs::file_size(file_), kMost / 2);
  EXPECT_EQ(trace.lines.size() % (kStepRows * kLayers), 0u) << "parts are whole";
  EXPECT_EQ(trace.lines.size(), recorder->counts().written);
}

// A file whose reader the test is: writing to it stops when nobody reads.
class SlowFileTest : public GateRecorderTest {
 protected:
  SlowFileTest() {
    EXPECT_EQ(mkfifo(file_.c_str(), 0600), 0);
    end_ = open(file_.c_str(), O_RDONLY | O_NONBLOCK);
    EXPECT_GE(end_, 0);
    fcntl(end_, F_SETFL, 0);
  }
  ~SlowFileTest() override { close(end_); }

  // Until the writer is gone.
  void ReadAll() {
    char buffer[4096];
    for (ssize_t got; (got = read(end_, buffer, sizeof(buffer))) > 0;) text_.append(buffer, got);
  }

  int end_ = -1;
  std::string text_;
};

TEST_F(SlowFileTest, StepsAreDroppedAndCountedRatherThanWaitedFor) {
  constexpr uint64_t kStepLines = kStepRows * kLayers;
  auto recorder = Create();
  uint64_t steps = 0;
  // Nobody reads: the pipe and the ring fill up.
  for (; steps < 100; ++steps) Step(*recorder, Prompt(kStepRows, int(steps) * kStepRows));
  const uint64_t dropped = recorder->counts().dropped;
  EXPECT_GE(dropped, 50 * kStepLines);
  EXPECT_EQ(dropped % kStepLines, 0u) << "whole steps";
  std::thread reader([this] { ReadAll(); });
  EXPECT_TRUE(recorder->Finish().ok());
  const GateRecorder::Counts counts = recorder->counts();
  recorder = nullptr;
  reader.join();
  EXPECT_EQ(counts.written + counts.dropped, steps * kStepLines);
  const auto trace = ParseExpertTrace(text_);
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->lines.size(), counts.written);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("are dropped"), HasSubstr(std::to_string(dropped))));
}

TEST_F(SlowFileTest, WhoWaitsLosesNothing) {
  auto recorder = Create(/*wait=*/true);
  std::thread reader([this] { ReadAll(); });
  for (int step = 0; step < 50; ++step) Step(*recorder, Prompt(kStepRows, step * kStepRows));
  EXPECT_TRUE(recorder->Finish().ok());
  recorder = nullptr;
  reader.join();
  const auto trace = ParseExpertTrace(text_);
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->lines.size(), size_t{50 * kStepRows * kLayers});
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(GateRecorderTest, AFileThatCannotBeMadeIsAnError) {
  const auto recorder =
      GateRecorder::Create({.path = "/nowhere/at/all", .step_rows = 1}, *model_->model);
  EXPECT_EQ(recorder.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(recorder.status().message()), HasSubstr("/nowhere/at/all"));
}

}  // namespace
}  // namespace hostler
