// Precompiled: what nearly every command of `tailor` includes. A source still names what it uses.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <tl/expected.hpp>
#include <variant>
#include <vector>
