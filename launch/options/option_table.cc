#include "launch/options/option_table.h"

#include "base/check.h"

namespace tailor::launch {

void offer(CLI::App& app, const std::vector<OptionFace>& faces, OptionValues& given) {
  for (const OptionFace& face : faces) {
    if (face.serve != Serve::kOffers) continue;
    CLI::Option* option = app.get_option_no_throw(face.name);
    const bool is_new = option == nullptr;
    if (is_new) {
      std::string& value = given[face.name];
      const std::string& help = face.serve_help.empty() ? face.help : face.serve_help;
      option = face.type.empty() ? app.add_flag(face.name, value, help)
                                 : app.add_option(face.name, value, help)->type_name(face.type);
    }
    std::vector<CLI::Validator> checks = face.checks;
    if (face.is_size) checks.push_back(CLI::AsSizeValue(false));  // the text stays as it is
    for (CLI::Validator& check : checks) {
      if (!is_new) check.description("");  // one range is enough in the help
      option->check(check);
    }
  }
}

void hand_on(const std::vector<OptionFace>& faces, const OptionValues& settled,
             const OptionValues& given, std::vector<std::string>& words) {
  for (const OptionFace& face : faces) {
    if (face.serve == Serve::kNothing) continue;
    const OptionValues& values = face.serve == Serve::kSettles ? settled : given;
    const auto found = values.find(face.name);
    TAILOR_CHECK(found != values.end() || face.serve == Serve::kOffers,
                 "serve settles every option that a table says it does");
    if (found == values.end() || found->second.empty()) continue;
    if (!face.type.empty()) {
      words.insert(words.end(), {face.name, found->second});
    } else if (found->second == "true") {
      words.push_back(face.name);
    }
  }
}

}  // namespace tailor::launch
