#include "cache/trace.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace hostler {
namespace {

constexpr char kText[] =
    "# expert-trace v1\n"
    "# model=toy layers=2 experts=4 topk=2 weights=1\n"
    "# part=head source=nowhere licence=none\n"
    "# expert_bytes_from=recorded expert_bytes=100,200\n"
    "phase,step,layer,e0,e1,w0,w1\n"
    "0,0,0,3,1,600000,400000\n"
    "0,0,1,0,1,500000,500000\n"
    "1,1,0,2,3,900000,100000\n";

class TraceTest : public ::testing::Test {
 protected:
  TraceTest() : folder_(testing::TempDir() + "hostler_trace_" + std::to_string(getpid()) + "/") {
    std::filesystem::create_directories(folder_);
  }
  ~TraceTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + name) << text;
    return folder_ + name;
  }

  const std::string folder_;
};

TEST_F(TraceTest, ReadsHeaderAndLines) {
  const auto trace = ParseExpertTrace(kText);
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->header.model, "toy");
  EXPECT_EQ(trace->header.layers, 2);
  EXPECT_EQ(trace->header.experts, 4);
  EXPECT_FALSE(trace->header.bytes_assumed);
  EXPECT_EQ(trace->header.expert_bytes, (std::vector<uint64_t>{100, 200}));
  ASSERT_EQ(trace->lines.size(), 3);
  EXPECT_FALSE(trace->lines[1].decode);
  EXPECT_EQ(trace->lines[1].layer, 1);
  EXPECT_TRUE(trace->lines[2].decode);
  EXPECT_EQ(trace->experts(2)[1], 3);
  EXPECT_FLOAT_EQ(trace->weights[4], 0.9f);
}

TEST_F(TraceTest, RefusesWhatIsNoTraceAndNamesTheLine) {
  const auto with = [](const char* line) { return std::string(kText) + line + "\n"; };
  const std::pair<std::string, const char*> kBad[] = {
      {"", "line 0"},
      {"hello\n", "line 1"},
      {"# expert-trace v1\n", "line 1: ends"},
      {"# expert-trace v1\nphase,step,layer,e0\n0,0,0,1\n", "lacks layers"},
      {"# expert-trace v1\n# layers=1 experts=2 topk=3\nphase,step,layer,e0\n", "topk is more"},
      {"# expert-trace v1\n# layers=99999999999 experts=2 topk=1\n", "line 2: bad layers"},
      {"# expert-trace v1\n# layers=3 experts=2 topk=1 expert_bytes=1,2\nphase,step,layer,e0\n",
       "one number per layer"},
      {with("2,1,0,2,3,1,1"), "line 9: bad phase"},
      {with("1,-1,0,2,3,1,1"), "bad step"},
      {with("1,1,2,2,3,1,1"), "bad layer"},
      {with("1,1,0,2,4,1,1"), "bad expert"},
      {with("1,1,0,2,2,1,1"), "an expert twice"},
      {with("1,1,0,2,3,1"), "bad weight"},
      {with("1,1,0,2,3,1,1,1"), "more columns"},
      {with("1,1,0,2,"), "bad expert"},
      {with("# model=other"), "a header line among"},
  };
  for (const auto& [text, problem] : kBad) {
    const auto trace = ParseExpertTrace(text);
    ASSERT_EQ(trace.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(std::string(trace.status().message()).find(problem), std::string::npos)
        << trace.status() << " for " << problem;
  }
}

TEST_F(TraceTest, JoinsHeadAndTail) {
  const std::string head = Write("head.csv", kText);
  const std::string tail = Write(
      "tail.csv",
      "# expert-trace v1\n# layers=2 experts=4 topk=2 weights=1\nphase,step,layer,e0,e1,w0,w1\n"
      "1,1,1,0,1,1,1\n");
  const auto trace = ReadExpertTrace(head + "+" + tail);
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->lines.size(), 4);
  EXPECT_EQ(trace->experts(3)[1], 1);
  EXPECT_EQ(ReadExpertTrace(head + "+" + folder_ + "none").status().code(),
            absl::StatusCode::kNotFound);
  const std::string other = Write(
      "other.csv",
      "# expert-trace v1\n# layers=3 experts=4 topk=2 weights=1\nphase,step,layer,e0,e1,w0,w1\n");
  EXPECT_EQ(ReadExpertTrace(head + "+" + other).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(TraceTest, WhatIsWrittenReadsBack) {
  TraceHeader header{"a model", 3, 300, 2, true, {10, 20, 30}, {1, 2, 3}};
  const std::string path = folder_ + "out.csv";
  constexpr int kSteps = 5000;  // more than a buffer
  {
    auto writer = TraceWriter::Create(path, header);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (int step = 0; step < kSteps; ++step) {
      const int experts[] = {step % 300, (step + 1) % 300};
      const float weights[] = {0.75f, 0.25f};
      (*writer)->Record({step > 10, step, step % 3}, experts, weights);
    }
    const int one[] = {1};
    (*writer)->Record({true, 0, 0}, one, {});
    EXPECT_EQ((*writer)->lines(), kSteps);
    EXPECT_EQ((*writer)->left_out(), 1);
    EXPECT_TRUE((*writer)->Flush().ok());
  }
  const auto trace = ReadExpertTrace(path);
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->header.model, "a_model");
  EXPECT_EQ(trace->header.dense_bytes, header.dense_bytes);
  ASSERT_EQ(trace->lines.size(), kSteps);
  EXPECT_EQ(trace->lines[4999].step, 4999);
  EXPECT_EQ(trace->lines[4999].layer, 4999 % 3);
  EXPECT_TRUE(trace->lines[4999].decode);
  EXPECT_EQ(trace->experts(4999)[1], 5000 % 300);
  EXPECT_FLOAT_EQ(trace->weights[2 * 4999], 0.75f);
}

TEST_F(TraceTest, AWriterTellsWhatItCannotDo) {
  EXPECT_EQ(TraceWriter::Create(folder_ + "no/such/folder", {"m", 1, 2, 1, false, {}, {}})
                .status()
                .code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(TraceWriter::Create(folder_ + "x", {"m", 1, 2, 3, false, {}, {}}).status().code(),
            absl::StatusCode::kInvalidArgument);
  auto full = TraceWriter::Create("/dev/full", {"m", 1, 2, 1, false, {}, {}});
  ASSERT_TRUE(full.ok());
  EXPECT_EQ((*full)->Flush().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace hostler
