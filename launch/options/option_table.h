// One table of options for each program (launch/options/program_options.h): a row names an option,
// the variable that takes it (and with it type and default), its help, what it may be, and what
// `tailor serve` does about it. The program parses from its table; serve offers and hands on from
// the same rows. So an option is one row.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace tailor::launch {

/// What `tailor serve` does about an option of a program that it starts.
enum class Serve {
  kNothing,  ///< the program's default holds
  kSettles,  ///< it has a value of its own, which it always gives
  kOffers,   ///< it has the option too, and hands on what it is given
};

/// A row but for its variable.
struct OptionFace {
  std::string name;  ///< with its dashes
  std::string type;  ///< as CLI11 calls it: TEXT, INT, UINT, FLOAT; empty: a flag
  std::string help;
  bool is_required = false;
  bool in_config = true;  ///< may stand in a file of options, too
  bool is_size = false;   ///< 512MiB
  std::vector<CLI::Validator> checks;
  Serve serve = Serve::kNothing;
  std::string serve_help;  ///< where serve says it in other words
};

/// Values by option's name, as text; of a flag "true".
using OptionValues = std::map<std::string, std::string>;

template <typename Arguments>
class OptionTable {
 public:
  class Row {
   public:
    Row& required() { return face_.is_required = true, *this; }
    Row& command_line_only() { return face_.in_config = false, *this; }
    Row& check(CLI::Validator validator) {
      return face_.checks.push_back(std::move(validator)), *this;
    }
    template <typename Number>
    Row& within(Number least, Number most) {
      return check(CLI::Range(least, most));
    }
    Row& one_of(std::vector<std::string> names) { return check(CLI::IsMember(std::move(names))); }
    Row& size() { return face_.is_size = true, *this; }
    Row& settled() { return face_.serve = Serve::kSettles, *this; }
    Row& offered(std::string help = "") {
      face_.serve = Serve::kOffers;
      return face_.serve_help = std::move(help), *this;
    }

   private:
    friend OptionTable;
    using Variable = std::variant<std::string Arguments::*, bool Arguments::*, int Arguments::*,
                                  uint32_t Arguments::*, int64_t Arguments::*,
                                  uint64_t Arguments::*, double Arguments::*>;
    Row(std::string name, Variable variable, std::string help) : variable_(variable) {
      face_.name = std::move(name);
      face_.help = std::move(help);
      std::visit(
          [&]<typename Value>(Value Arguments::*) {
            if constexpr (!std::is_same_v<Value, bool>)
              face_.type = CLI::detail::type_name<Value>();
          },
          variable);
    }
    OptionFace face_;
    Variable variable_;
  };

  /// The returned row is good until the next one.
  Row& operator()(std::string name, typename Row::Variable variable, std::string help) {
    return rows_.emplace_back(Row(std::move(name), variable, std::move(help)));
  }

  std::vector<OptionFace> faces() const {
    std::vector<OptionFace> faces;
    for (const Row& row : rows_) faces.push_back(row.face_);
    return faces;
  }

  /// Gives `app` the options of this table; they go to `arguments`.
  void add_to(CLI::App& app, Arguments& arguments) const {
    for (const Row& row : rows_) {
      const OptionFace& face = row.face_;
      CLI::Option* option = std::visit(
          [&]<typename Value>(Value Arguments::*variable) {
            if constexpr (std::is_same_v<Value, bool>)
              return app.add_flag(face.name, arguments.*variable, face.help);
            else
              return app.add_option(face.name, arguments.*variable, face.help);
          },
          row.variable_);
      for (const CLI::Validator& check : face.checks) option->check(check);
      if (face.is_size) option->transform(CLI::AsSizeValue(false));
      option->required(face.is_required)->configurable(face.in_config);
    }
  }

 private:
  std::vector<Row> rows_;
};

/// Gives serve's `app` what the program behind `faces` lets it offer; what is given goes to
/// `given`, which must stay where it is. An option that several programs have is offered once, and
/// must pass all their checks.
void offer(CLI::App& app, const std::vector<OptionFace>& faces, OptionValues& given);

/// Puts the options behind `words` that serve settles or was given, in the table's order; an empty
/// value is left out.
void hand_on(const std::vector<OptionFace>& faces, const OptionValues& settled,
             const OptionValues& given, std::vector<std::string>& words);

}  // namespace tailor::launch
