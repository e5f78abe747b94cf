// hostler route: trains routers from outcomes and judges them.

#include <algorithm>
#include <fstream>
#include <limits>
#include <memory>

#include "engine/base/bytes.h"
#include "engine/base/checksum.h"
#include "engine/base/cores.h"
#include "engine/base/status.h"
#include "engine/embed/encoder.h"
#include "fmt/format.h"
#include "router/quality/embedding_kind.h"
#include "router/quality/trainer.h"
#include "server/commands/route_commands.h"
#include "server/commands/route_judge.h"
#include "server/commands/route_log_eval.h"
#include "server/commands/terminal.h"

namespace hostler {
namespace {

struct RouteFlags {
  RoutingDataOptions data;
  TrainOptions train;
  std::string leave_out;
  std::string output;  // of train: the router; of eval: "" or the SVG
  std::string router;
  std::vector<std::string> train_files;  // eval: whose single models are compared with
  LogEvalFlags log;
  int folds = 0;
  int resamples = 0;
  bool json = false;
  std::string encoder;  // a directory; "": none
  int encoder_tokens = kDefaultEncoderTokens;
};

absl::Status WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) return absl::UnavailableError("cannot write " + path);
  return absl::OkStatus();
}

// Null: none is asked for.
absl::StatusOr<std::unique_ptr<Encoder>> LoadEncoder(const RouteFlags& flags) {
  if (flags.encoder.empty()) return nullptr;
  return Encoder::Load(flags.encoder,
                       {.threads = UsableCores(), .max_tokens = flags.encoder_tokens});
}

// Every row's embedding, in place of one that it has.
absl::Status EmbedRows(Encoder* encoder, std::vector<RoutingSet>* sets) {
  if (encoder == nullptr) return absl::OkStatus();
  constexpr size_t kRows = 64;  // computed together
  const size_t size = static_cast<size_t>(encoder->dimensions());
  std::vector<float> embeddings(kRows * size);
  ProgressLine line;
  for (RoutingSet& set : *sets) {
    for (size_t first = 0; first < set.rows.size(); first += kRows) {
      const size_t count = std::min(kRows, set.rows.size() - first);
      std::vector<std::string_view> texts;
      for (size_t i = 0; i < count; ++i) texts.push_back(set.rows[first + i].prompt);
      HOSTLER_RETURN_IF_ERROR(encoder->Encode(texts, {embeddings.data(), count * size}));
      for (size_t i = 0; i < count; ++i) {
        const float* own = embeddings.data() + i * size;
        set.rows[first + i].embedding.assign(own, own + size);
      }
      line.Show(fmt::format("embedding {}: {} of {}", set.name, first + count, set.rows.size()));
    }
  }
  return absl::OkStatus();
}

// As trained by `flags`, with progress on a terminal.
absl::StatusOr<RouterModel> TrainOn(const std::vector<RoutingSet>& sets, const RouteFlags& flags) {
  ProgressLine line;
  TrainOptions options = flags.train;
  options.progress = [&](std::string_view text) { line.Show("training: " + std::string(text)); };
  return TrainRouter(sets, options);
}

absl::Status Train(const RouteFlags& flags) {
  HOSTLER_ASSIGN_OR_RETURN(std::vector<RoutingSet> sets, ReadRoutingData(flags.data));
  if (!flags.leave_out.empty() &&
      std::erase_if(sets, [&](const auto& set) { return set.name == flags.leave_out; }) == 0) {
    return absl::InvalidArgumentError("--leave-out: no set " + flags.leave_out);
  }
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<Encoder> encoder, LoadEncoder(flags));
  HOSTLER_RETURN_IF_ERROR(EmbedRows(encoder.get(), &sets));
  HOSTLER_ASSIGN_OR_RETURN(RouterModel model, TrainOn(sets, flags));
  if (encoder != nullptr) {
    model.encoder = encoder->fingerprint();
    model.encoder_tokens = encoder->max_tokens();
  }
  const std::string bytes = SerializeRouterModel(model);
  HOSTLER_RETURN_IF_ERROR(WriteFile(flags.output, bytes));
  for (const RoutingSet& set : sets) {
    fmt::print("{}: {} rows, {} models\n", set.name, set.rows.size(), set.models.size());
  }
  fmt::print("wrote {}: {}, {} topics\n", flags.output, FormatBytes(bytes.size()), model.topics);
  return absl::OkStatus();
}

// Every row predicted by a router that was trained on the other folds' rows.
absl::StatusOr<std::vector<RouteTable>> CrossValidate(const std::vector<RoutingSet>& sets,
                                                      const RouteFlags& flags) {
  std::vector<RouteTable> tables;
  for (const RoutingSet& set : sets) {
    tables.push_back(TrueTable(set));
    tables.back().predicted.resize(tables.back().quality.size());
    tables.back().guessed.resize(tables.back().quality.size());
  }
  const auto fold = [&](const RoutingRow& row) {
    if (row.fold >= 0) return row.fold % flags.folds;
    return static_cast<int>(Checksum(row.prompt) / 7 % flags.folds);
  };
  for (int k = 0; k < flags.folds; ++k) {
    std::vector<RoutingSet> rest = sets, own = sets;
    for (RoutingSet& set : rest)
      std::erase_if(set.rows, [&](const auto& r) { return fold(r) == k; });
    for (RoutingSet& set : own)
      std::erase_if(set.rows, [&](const auto& r) { return fold(r) != k; });
    HOSTLER_ASSIGN_OR_RETURN(RouterModel model, TrainOn(rest, flags));
    const QualityPredictor predictor(std::move(model));
    for (size_t s = 0; s < sets.size(); ++s) {
      HOSTLER_ASSIGN_OR_RETURN(const RouteTable part, PredictSet(predictor, own[s]));
      size_t next = 0;
      for (size_t i = 0; i < sets[s].rows.size(); ++i) {
        if (fold(sets[s].rows[i]) != k) continue;
        for (size_t m = 0; m < part.models; ++m, ++next) {
          tables[s].predicted[i * part.models + m] = part.predicted[next];
          tables[s].guessed[i * part.models + m] = part.guessed[next];
        }
      }
    }
  }
  return tables;
}

absl::Status Eval(const RouteFlags& flags) {
  if (flags.log.log.empty() == flags.data.files.empty()) {
    return absl::InvalidArgumentError("one of --data and --log is needed");
  }
  if (!flags.log.log.empty()) return EvalLog(flags.log, flags.router, flags.json);
  if (flags.router.empty() == (flags.folds == 0)) {
    return absl::InvalidArgumentError("one of --router and --cv is needed");
  }
  HOSTLER_ASSIGN_OR_RETURN(std::vector<RoutingSet> sets, ReadRoutingData(flags.data));
  HOSTLER_ASSIGN_OR_RETURN(const std::unique_ptr<Encoder> encoder, LoadEncoder(flags));
  HOSTLER_RETURN_IF_ERROR(EmbedRows(encoder.get(), &sets));
  std::vector<RoutingSet> train_sets;
  if (!flags.train_files.empty()) {
    RoutingDataOptions options = flags.data;
    options.prompts.insert(options.prompts.end(), flags.data.files.begin(), flags.data.files.end());
    options.files = flags.train_files;
    HOSTLER_ASSIGN_OR_RETURN(train_sets, ReadRoutingData(options));
  }
  std::vector<RouteTable> tables;
  if (flags.folds > 0) {
    HOSTLER_ASSIGN_OR_RETURN(tables, CrossValidate(sets, flags));
  } else {
    HOSTLER_ASSIGN_OR_RETURN(const auto predictor, QualityPredictor::Load(flags.router));
    if (encoder != nullptr) {
      const std::string why = WhyNotEmbedded(predictor->embeddings(), KindOf(*encoder));
      if (!why.empty()) {
        return absl::FailedPreconditionError(fmt::format("{}: {}", flags.router, why));
      }
    }
    for (const RoutingSet& set : sets) {
      HOSTLER_ASSIGN_OR_RETURN(tables.emplace_back(), PredictSet(*predictor, set));
    }
  }
  nlohmann::ordered_json judgements = nlohmann::ordered_json::array();
  for (size_t s = 0; s < sets.size(); ++s) {
    SingleModels train = MeasureSingles(tables[s]);
    for (const RoutingSet& set : train_sets) {
      if (set.name != sets[s].name) continue;
      if (set.models != sets[s].models) {
        return absl::InvalidArgumentError("--train: other models in " + set.name);
      }
      train = MeasureSingles(TrueTable(set));
    }
    judgements.push_back(JudgeSet(sets[s], tables[s], train, flags.resamples));
  }
  if (!flags.output.empty()) {
    HOSTLER_RETURN_IF_ERROR(WriteFile(flags.output, JudgementSvg(judgements)));
  }
  fmt::print("{}", flags.json ? judgements.dump(1) + "\n" : JudgementText(judgements));
  return absl::OkStatus();
}

int Finish(const absl::Status& status) { return status.ok() ? FinishStdout() : Fail(status); }

void AddDataFlags(CLI::App* command, RouteFlags* flags) {
  command->add_option("--data", flags->data.files, "Outcomes, JSONL; a set is named by its file")
      ->type_name("FILE");
  command
      ->add_option("--prompts", flags->data.prompts,
                   "Files that rows without a prompt find it in, by id")
      ->type_name("FILE");
  command->add_option("--models", flags->data.prices, "Prices: set, model, in and out")
      ->type_name("FILE");
  command->add_option("--labels", flags->data.labels, "The field with what each model was worth")
      ->capture_default_str();
  command
      ->add_option("--encoder", flags->encoder,
                   "Sentence encoder of the BERT family: prompts are embedded with it")
      ->type_name("DIR");
  command
      ->add_option("--encoder-tokens", flags->encoder_tokens,
                   "Tokens of a prompt that it looks at; a server needs the same encoder_tokens")
      ->check(CLI::Range(8, std::numeric_limits<int>::max()))
      ->capture_default_str();
  command
      ->add_option("--hash-bits", flags->train.hash_bits,
                   "2^N hashed features: fewer make a smaller file")
      ->check(CLI::Range(8, kMaxHashBits))
      ->capture_default_str();
  command
      ->add_option("--penalty", flags->train.penalties,
                   "Of the heads' ridge; of several, each direction takes what foretells it best")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--length-penalty", flags->train.length_penalty, "The same for answers' lengths")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--topic-prior", flags->train.topic_prior, "Rows a topic's mean starts with")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--neighbours", flags->train.neighbours,
                   "Nearest prompts by embedding that are asked, with --encoder")
      ->check(CLI::Range(1, kMaxNeighbours))
      ->capture_default_str();
  command
      ->add_option("--neighbour-weight", flags->train.neighbour_weight,
                   "What they count in an estimate")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--epochs", flags->train.epochs, "Of the topic classifier")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command
      ->add_option("--directions", flags->train.max_directions,
                   "Principal directions of the models' outcomes that are learned")
      ->check(CLI::Range(1, kMaxGroupModels))
      ->capture_default_str();
}

void AddTrain(CLI::App* route, RunCommand* run) {
  auto flags = std::make_shared<RouteFlags>();
  CLI::App* command = route->add_subcommand("train", "Train a router from outcomes");
  AddDataFlags(command, flags.get());
  command->get_option("--data")->required();
  command->add_option("-o,--output", flags->output, "The router")->type_name("FILE")->required();
  command->add_option("--leave-out", flags->leave_out, "A set not to train on")->type_name("SET");
  command->callback([flags, run] { *run = [flags] { return Finish(Train(*flags)); }; });
}

void AddEval(CLI::App* route, RunCommand* run) {
  auto flags = std::make_shared<RouteFlags>();
  CLI::App* command =
      route->add_subcommand("eval", "Judge a router by outcomes, or a server's decisions");
  AddDataFlags(command, flags.get());
  AddLogEvalFlags(command, &flags->log);
  command->add_option("--router", flags->router, "The router")->type_name("FILE");
  command->add_option("--cv", flags->folds, "Instead: train on all folds but one, judge on it")
      ->type_name("FOLDS")
      ->check(CLI::Range(2, kMaxFolds));
  command
      ->add_option("--train", flags->train_files,
                   "What the router was trained on: single models are chosen there")
      ->type_name("FILE");
  command->add_option("--bootstrap", flags->resamples, "Resamples for 95 % intervals")
      ->type_name("N")
      ->check(CLI::Range(0, 100000));
  command->add_flag("--json", flags->json, "Print JSON");
  command->add_option("--svg", flags->output, "Draw cost and quality")->type_name("FILE");
  command->callback([flags, run] { *run = [flags] { return Finish(Eval(*flags)); }; });
}

}  // namespace

void AddRouteCommand(CLI::App* app, RunCommand* run) {
  CLI::App* route = app->add_subcommand("route", "Train, judge and question query routers");
  route->require_subcommand(1);
  AddTrain(route, run);
  AddEval(route, run);
  AddRouteExplain(route, run);
}

}  // namespace hostler
