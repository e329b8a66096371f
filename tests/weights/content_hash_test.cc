// The hash of a file, and when a kept one is believed.
#include "weights/content_hash.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <ctime>

#include "tests/weights/test_files.h"

namespace tailor::weights {
namespace {

std::string hash_of(const std::string& text) {
  return content_hash(std::as_bytes(std::span(text)));
}

TEST(ContentHash, IsXxh3Of128Bits) {
  EXPECT_EQ(hash_of(""), "99aa06d3014798d86001c324468d497f");  // as xxhsum -H2 prints it
  EXPECT_EQ(hash_of("tailor"), "9347910184720c6fd9e99e4032b5df88");
  std::vector<double> seen;
  const std::string large((64 << 20) + 5, 'x');  // more than one piece
  EXPECT_EQ(
      content_hash(std::as_bytes(std::span(large)), [&](double part) { seen.push_back(part); }),
      "42504110886ff7e6b66d20a97a2de57c");
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen.back(), 1.0);
}

class KeptHash : public ::testing::Test {
 protected:
  KeptHash() { ::setenv("TAILOR_CACHE", cache_.path().c_str(), 1); }
  ~KeptHash() override { ::unsetenv("TAILOR_CACHE"); }

  static std::string hash(const std::string& path) {
    const auto file = MappedFile::open(path);
    EXPECT_TRUE(file.has_value());
    return file ? file_hash(**file, (*file)->bytes().size()) : "";
  }
  std::vector<std::string> entries() const {
    std::vector<std::string> out;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(cache_ / "hashes", none))
      out.push_back(entry.path().string());
    return out;
  }
  /// An entry as it would be if the file's hash were 32 times 'f'.
  static std::string with_other_hash(const std::string& entry) {
    const std::string about = entry.substr(0, entry.size() - 66), other(32, 'f');
    return about + other + " " + hash_of(about + other) + "\n";
  }

  /// A large file that has rested for longer than this program has run: the C++ library.
  static std::string old_file() {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);)
      if (line.find("libstdc++") != line.npos) return line.substr(line.find('/'));
    ADD_FAILURE() << "no C++ library is mapped";
    return "";
  }

  ScratchFolder cache_;
};

TEST_F(KeptHash, IsBelievedWhereItsCheckAndItsOwnerAreRight) {
  const std::string path = old_file();
  const std::string right = hash_of(read_file(path));
  EXPECT_EQ(hash(path), right);
  ASSERT_EQ(entries().size(), 1u);
  const std::string entry = entries()[0], kept = read_file(entry);
  struct stat info {};
  ASSERT_EQ(::stat(entry.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(::stat((cache_ / "hashes").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);

  const std::string forged = with_other_hash(kept);
  const auto put = [&](const std::string& text, mode_t mode) {
    write_file(entry, text);
    ::chmod(entry.c_str(), mode);
  };
  put(forged, 0600);
  EXPECT_EQ(hash(path), std::string(32, 'f')) << "the entry is used";
  put(forged, 0666);
  EXPECT_EQ(hash(path), right) << "others could have written it";
  std::string torn = forged;
  torn[torn.size() - 2] ^= 1;
  for (const std::string& text :
       {torn, forged.substr(0, forged.size() / 2), std::string(), forged + "x"}) {
    put(text, 0600);
    EXPECT_EQ(hash(path), right) << "its check is wrong";
    EXPECT_EQ(read_file(entry), kept) << "and it is made anew";
  }
  // Another file of the same path, name and size.
  ScratchFolder scratch;
  write_file(scratch / "a", std::string(2 << 20, 'a'));
  write_file(scratch / "b", std::string(2 << 20, 'b'));
  EXPECT_NE(hash(scratch / "a"), hash(scratch / "b"));
  std::filesystem::rename(scratch / "b", scratch / "a");
  EXPECT_EQ(hash(scratch / "a"), hash_of(std::string(2 << 20, 'b')));
}

TEST_F(KeptHash, IsNotKeptForAFileThatHasJustChanged) {
  ScratchFolder scratch;
  const std::string path = scratch / "young";
  write_file(path, std::string(2 << 20, 'a'));
  const timespec later[2] = {{std::time(nullptr) + 3600, 0}, {std::time(nullptr) + 3600, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), later, 0), 0);  // it stays young for an hour
  EXPECT_EQ(hash(path), hash_of(std::string(2 << 20, 'a')));
  EXPECT_TRUE(entries().empty());

  FileIdentity file;
  file.modified_ns = 5'000'000'000, file.changed_ns = 6'000'000'000;
  EXPECT_FALSE(had_rested(file, 7'999'999'999)) << "its inode changed within two seconds";
  EXPECT_TRUE(had_rested(file, 8'000'000'000));
  file.modified_ns = 7'000'000'000;
  EXPECT_FALSE(had_rested(file, 8'000'000'000)) << "its content did";
}

TEST_F(KeptHash, WithoutACacheFolderIsMadeEachTime) {
  write_file(cache_ / "file", "in the way");
  ::setenv("TAILOR_CACHE", (cache_ / "file").c_str(), 1);
  EXPECT_EQ(hash(old_file()), hash_of(read_file(old_file())));
}

TEST(PrivateFolder, IsOursAlone) {
  ScratchFolder scratch;
  const std::string folder = scratch / "a/b";
  ASSERT_TRUE(make_private_folder(folder));
  struct stat info {};
  ASSERT_EQ(::chmod(folder.c_str(), 0777), 0);
  ASSERT_TRUE(make_private_folder(folder));
  ASSERT_EQ(::stat(folder.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0755u) << "others may not write there";
  std::filesystem::create_symlink(folder, scratch / "link");
  EXPECT_FALSE(make_private_folder(scratch / "link"));
  if (::geteuid() != 0) return;  // to give a folder away takes root
  ASSERT_EQ(::chown(folder.c_str(), 4711, 4711), 0);
  const auto other = make_private_folder(folder);
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message.find("4711"), std::string::npos) << other.error().message;
}

}  // namespace
}  // namespace tailor::weights
