// Files get a new fingerprint of their model where they carry the one that is to be replaced, and
// nothing else of them changes.
#include "predict/restamp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/model_stamp.h"
#include "predict/feature_file.h"
#include "predict/length_file.h"
#include "predict/length_head.h"

namespace tailor::predict {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::string kOlder = "0123456789abcdef0123456789abcdef";
const std::string kNew = "xxh3-" + std::string(32, 'a');

class Restamp : public testing::Test {
 protected:
  Restamp() : folder_(testing::TempDir() + "restamp_" + std::to_string(getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~Restamp() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  static std::string text(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::stringstream out;
    out << in.rdbuf();
    return out.str();
  }
  /// A copy of a file of the repository, as it would be with the older stamp.
  std::string older(const std::string& name) const {
    const std::string from = TAILOR_SOURCE_DIR "/data/" + name,
                      to = path(fs::path(name).filename());
    fs::copy_file(from, to);
    const auto stamp = stamp_of(from);
    EXPECT_TRUE(stamp.has_value()) << stamp.error().message;
    const auto done = restamp(to, *stamp, kOlder);
    EXPECT_TRUE(done.has_value() && *done);
    return to;
  }
  /// There and back: the same bytes. `open` reads the file as its users do.
  template <class Open>
  void there_and_back(const std::string& name, const Open& stamp_as_read) {
    const std::string file = older(name), before = text(file);
    EXPECT_EQ(stamp_as_read(file), kOlder);
    auto done = restamp(file, kOlder, kNew);
    ASSERT_TRUE(done.has_value()) << done.error().message;
    EXPECT_TRUE(*done);
    EXPECT_EQ(stamp_as_read(file), kNew);
    EXPECT_EQ(*stamp_of(file), kNew);
    done = restamp(file, kOlder, kNew);
    ASSERT_TRUE(done.has_value());
    EXPECT_FALSE(*done) << "it carries the new one already";
    const std::string after = text(file);
    const auto other = restamp(file, kOlder, "xxh3-" + std::string(32, 'b'));
    ASSERT_FALSE(other.has_value());
    EXPECT_THAT(other.error().message,
                AllOf(HasSubstr(file), HasSubstr("another model"), HasSubstr(kNew)));
    EXPECT_EQ(text(file), after);
    ASSERT_TRUE(*restamp(file, kNew, kOlder));
    EXPECT_TRUE(text(file) == before);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1) << "nothing is left beside it";
  }

  const std::string folder_;
};

TEST_F(Restamp, AHead) {
  there_and_back("predictors/default/probe.safetensors", [](const std::string& file) {
    const auto head = LengthHead::load(file);
    EXPECT_TRUE(head.has_value()) << head.error().message;
    return head ? head->info().model_fingerprint : "";
  });
}

TEST_F(Restamp, AFeatureFile) {
  there_and_back("predictors/default/held-out.feat", [](const std::string& file) {
    FeatureHeader header;
    const auto records = read_features(file, 22, &header);
    EXPECT_TRUE(records.has_value() && records->size() > 100);
    return header.model_fingerprint;
  });
}

TEST_F(Restamp, ALengthFile) {
  const auto stamp_as_read = [](const std::string& file) {
    const auto lengths = read_length_file(file);
    EXPECT_TRUE(lengths.has_value() && lengths->prompts.size() == 200);
    return lengths ? lengths->model_fingerprint : "";
  };
  there_and_back("lengths/default-test.jsonl", stamp_as_read);
  // The same in gzip.
  const std::string plain = text(path("default-test.jsonl")), packed = path("packed.jsonl.gz");
  gzFile out = gzopen(packed.c_str(), "wb");
  ASSERT_EQ(gzwrite(out, plain.data(), static_cast<unsigned>(plain.size())),
            static_cast<int>(plain.size()));
  gzclose(out);
  ASSERT_TRUE(*restamp(packed, kOlder, kNew));
  EXPECT_EQ(stamp_as_read(packed), kNew);
  EXPECT_EQ(static_cast<uint8_t>(text(packed)[0]), 0x1f) << "still gzip";
}

TEST_F(Restamp, OtherFilesAreRefused) {
  const std::string encoder =
      TAILOR_SOURCE_DIR "/data/predictors/default/prompt-encoder.safetensors";
  std::ofstream(path("text")) << "hello\n";
  std::ofstream(path("object")) << "{\"format\": 1}\n";
  std::ofstream(path("cut.safetensors")) << "12345";
  std::ofstream(path("empty"));
  std::ofstream(path("head.safetensors"), std::ios::binary)
      << std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10);
  for (const std::string& file : {encoder, path("text"), path("object"), path("cut.safetensors"),
                                  path("empty"), path("head.safetensors")}) {
    const auto done = restamp(file, kOlder, kNew);
    ASSERT_FALSE(done.has_value()) << file;
    EXPECT_THAT(done.error().message, AllOf(HasSubstr(file), HasSubstr("model_fingerprint")));
  }
  EXPECT_EQ(restamp(path("none"), kOlder, kNew).error().code, ErrorCode::kNotFound);
}

TEST_F(Restamp, WhoMeetsAnOlderFileNamesTheCommand) {
  EXPECT_TRUE(is_sampled_stamp(kOlder));
  EXPECT_FALSE(is_sampled_stamp(kNew));
  EXPECT_FALSE(is_sampled_stamp(""));
  EXPECT_TRUE(stamp_fits("", kNew) && stamp_fits(kNew, "") && stamp_fits(kNew, kNew));
  EXPECT_FALSE(stamp_fits(kOlder, kNew));
  // A collection that goes on, and its hidden states.
  const std::string lengths = older("lengths/default-test.jsonl");
  auto header = read_length_file(lengths);
  ASSERT_TRUE(header.has_value());
  header->model_fingerprint = kNew;
  const auto writer = LengthWriter::open(lengths, *header);
  ASSERT_FALSE(writer.has_value());
  EXPECT_THAT(writer.error().message, HasSubstr("`tailor restamp --model MODEL " + lengths + "`"));
  const std::string features = older("predictors/default/held-out.feat");
  const auto more = FeatureWriter::open(features, {kNew, 576, {22, 18}});
  ASSERT_FALSE(more.has_value());
  EXPECT_THAT(more.error().message, HasSubstr("`tailor restamp --model MODEL " + features + "`"));
  // A file of another model is another model's.
  EXPECT_THAT(stamp_misfit("f", kNew, "xxh3-b"),
              AllOf(HasSubstr(kNew), HasSubstr("xxh3-b"), Not(HasSubstr("restamp"))));
}

}  // namespace
}  // namespace tailor::predict
