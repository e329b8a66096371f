//! What chat templates take from Python and from Jinja2 where minijinja differs: methods of strings (by characters, as
//! Python counts them), the `%` operator behind a text, how values are written, some filters and tests. What is not
//! here falls to minijinja_contrib::pycompat and minijinja. Not alike: tuples are written as lists, and inside `~` and
//! join() lists and dicts with double quotes.

use minijinja::value::{from_args, Kwargs, Value, ValueKind};
use minijinja::{format_filter, Environment, Error, ErrorKind, FormatStyle, State};

/// Of `'%s' % x`, which adapt() rewrites into this filter.
pub const PERCENT: &str = "python_percent";

pub fn unknown_method(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let ours = match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => string_method(text, method, args)?,
        (ValueKind::Seq, _) => list_method(value, method, args)?,
        _ => None,
    };
    match ours {
        Some(found) => Ok(found),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_owned())
}

fn string_method(s: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let not_empty_and_all = |test: fn(char) -> bool| -> Result<Value, Error> {
        let () = from_args(args)?;
        Ok(Value::from(!s.is_empty() && s.chars().all(test)))
    };
    let case = |wanted: fn(char) -> bool, other: fn(char) -> bool| -> Result<Value, Error> {
        let () = from_args(args)?;
        Ok(Value::from(s.chars().any(wanted) && !s.chars().any(other)))
    };
    let characters = |bytes: usize| s[..bytes].chars().count();
    Ok(Some(match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(s.strip_prefix(prefix).unwrap_or(s))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(s.strip_suffix(suffix).unwrap_or(s))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(wrong("the separator is empty"));
            }
            let parts = match (method, s.split_once(separator), s.rsplit_once(separator)) {
                ("partition", Some((before, after)), _) => [before, separator, after],
                ("partition", None, _) => [s, "", ""],
                (_, _, Some((before, after))) => [before, separator, after],
                _ => ["", "", s],
            };
            Value::from_iter(parts.map(Value::from))
        }
        "rsplit" => {
            let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
            let most = most.filter(|m| *m >= 0).map_or(usize::MAX, |m| m as usize);
            Value::from_iter(rsplit(s, separator, most)?.into_iter().map(Value::from))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            Value::from(justified(s, method, width, fill.unwrap_or(" "))?)
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = s.split_at(usize::from(s.starts_with(['-', '+'])));
            let width = width.saturating_sub(sign.len());
            Value::from(format!("{sign}{}", justified(digits, "rjust", width, "0")?))
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(s.to_lowercase())
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |c: char| match c.is_uppercase() {
                true => c.to_lowercase().collect::<String>(),
                false => c.to_uppercase().collect(),
            };
            Value::from(s.chars().map(swap).collect::<String>())
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let found = if method.starts_with('r') { s.rfind(what) } else { s.find(what) };
            match found {
                Some(at) => Value::from(characters(at)),
                None if method.ends_with("find") => Value::from(-1),
                None => return Err(wrong("substring not found")),
            }
        }
        "count" => {
            let (what,): (&str,) = from_args(args)?;
            Value::from(s.matches(what).count()) // of "" one more than characters, as in Python
        }
        "islower" => case(char::is_lowercase, char::is_uppercase)?,
        "isupper" => case(char::is_uppercase, char::is_lowercase)?,
        "isspace" => not_empty_and_all(char::is_whitespace)?,
        "isdigit" | "isdecimal" | "isnumeric" => not_empty_and_all(char::is_numeric)?,
        "isalnum" => not_empty_and_all(char::is_alphanumeric)?,
        "isalpha" => not_empty_and_all(char::is_alphabetic)?,
        _ => return Ok(None),
    }))
}

fn list_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if method != "index" {
        return Ok(None);
    }
    let (what,): (&Value,) = from_args(args)?;
    match value.try_iter()?.position(|item| item == *what) {
        Some(at) => Ok(Some(Value::from(at))),
        None => Err(wrong("the list has no such item")),
    }
}

fn rsplit<'a>(s: &'a str, separator: Option<&str>, most: usize) -> Result<Vec<&'a str>, Error> {
    let mut parts = Vec::new();
    let mut rest = s;
    match separator {
        Some("") => return Err(wrong("the separator is empty")),
        Some(separator) => {
            while parts.len() < most {
                let Some((before, after)) = rest.rsplit_once(separator) else { break };
                parts.push(after);
                rest = before;
            }
            parts.push(rest);
        }
        None => {
            rest = rest.trim_end();
            while parts.len() < most {
                let Some(at) = rest.rfind(char::is_whitespace) else { break };
                let word = &rest[at..];
                parts.push(word.trim_start());
                rest = rest[..at].trim_end();
            }
            if !rest.is_empty() {
                parts.push(if parts.len() < most { rest.trim_start() } else { rest });
            }
        }
    }
    parts.reverse();
    Ok(parts)
}

/// The widest text that ljust and its like make: a template is trusted, its arithmetic is bounded all the same.
const WIDEST: usize = 1 << 20;

fn justified(s: &str, method: &str, width: usize, fill: &str) -> Result<String, Error> {
    let mut one = fill.chars();
    let (Some(fill), None) = (one.next(), one.next()) else {
        return Err(wrong("the fill must be one character"));
    };
    if width > WIDEST {
        return Err(wrong("the width is above 1048576"));
    }
    let size = s.chars().count();
    let missing = width.saturating_sub(size);
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        _ => missing / 2 + (missing & width & 1), // CPython's rounding
    };
    let pad = |n: usize| std::iter::repeat(fill).take(n).collect::<String>();
    Ok(format!("{}{s}{}", pad(left), pad(missing - left)))
}

/// Adds the filters and tests of this file.
pub fn add_to(environment: &mut Environment) {
    environment.add_filter(PERCENT, percent);
    environment.add_filter("string", |value: &Value| match value.kind() {
        ValueKind::String => value.clone(),
        _ => Value::from(written(value)),
    });
    environment.add_filter("replace", |text: &str, old: &str, new: &str, count: Option<i64>, named: Kwargs| {
        let count = count.or(named.get("count")?).filter(|c| *c >= 0).map_or(usize::MAX, |c| c as usize);
        named.assert_all_used()?;
        Ok(text.replacen(old, new, count))
    });
    for name in ["length", "count"] {
        environment.add_filter(name, |value: &Value| match value.is_undefined() {
            true => Ok(0),
            false => minijinja::filters::length(value),
        });
    }
    environment.add_filter("int", |state: &State, value: &Value, otherwise: Option<i64>, named: Kwargs| {
        let otherwise = otherwise.or(named.get("default")?).unwrap_or(0);
        named.assert_all_used()?;
        Ok(minijinja::filters::int(state, value).unwrap_or_else(|_| Value::from(otherwise)))
    });
    environment.add_filter("float", |state: &State, value: &Value, otherwise: Option<f64>, named: Kwargs| {
        let otherwise = otherwise.or(named.get("default")?).unwrap_or(0.0);
        named.assert_all_used()?;
        Ok(minijinja::filters::float(state, value).unwrap_or_else(|_| Value::from(otherwise)))
    });
    environment.add_filter("wordcount", |text: &str| text.split_whitespace().count());
    environment.add_filter("center", |text: &str, width: Option<usize>| {
        justified(text, "center", width.unwrap_or(80), " ")
    });
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain && value.as_object().is_some());
}

/// `value` as Python's print writes it.
pub fn written(value: &Value) -> String {
    match value.kind() {
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::None => "None".to_owned(),
        ValueKind::Seq | ValueKind::Map => {
            let mut out = String::new();
            write_repr(value, 0, &mut out);
            out
        }
        _ => value.to_string(),
    }
}

/// Lists inside lists that are written; a template is trusted, the stack is bounded all the same.
const DEEPEST: usize = 100;

fn write_repr(value: &Value, depth: usize, out: &mut String) {
    match value.kind() {
        _ if depth > DEEPEST => out.push_str("..."),
        ValueKind::String => write_quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(&item, depth + 1, out);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(&key, depth + 1, out);
                out.push_str(": ");
                write_repr(&value.get_item(&key).unwrap_or_default(), depth + 1, out);
            }
            out.push('}');
        }
        ValueKind::Undefined => out.push_str("Undefined"),
        _ => out.push_str(&written(value)),
    }
}

fn write_quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if c == quote => out.extend(['\\', c]),
            _ if c < ' ' || c == '\x7f' => out.push_str(&format!("\\x{:02x}", c as u32)),
            _ => out.push(c),
        }
    }
    out.push(quote);
}

/// `text % args`; `many`: the right side was written as a tuple.
fn percent(text: &str, args: Value, many: bool) -> Result<String, Error> {
    let python = |value: Value| match value.kind() {
        ValueKind::Map if text.contains("%(") => value,
        ValueKind::Bool | ValueKind::None | ValueKind::Seq | ValueKind::Map => Value::from(written(&value)),
        _ => value,
    };
    let args: Vec<Value> = if many { args.try_iter()?.map(python).collect() } else { vec![python(args)] };
    let text = text.replace("%r", "%s"); // of texts without quotes the nearest there is
    format_filter(FormatStyle::Printf, &text, &args)
}

/// The template as minijinja understands it: `{% generation %}` ... `{% endgeneration %}`, which mark the assistant's
/// words for training, become an `if true`; `'text' % operand` becomes a filter, for minijinja's `%` knows numbers only.
/// Refuses what would outgrow the stack of minijinja's compiler, which follows chains of operators by recursion.
pub fn adapt(source: &str) -> Result<String, String> {
    let mut out = String::with_capacity(source.len() + 64);
    let mut rest = source;
    let mut elifs = 0;
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let size = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'%') if is_raw(tag) => tag.find("endraw").unwrap_or(tag.len()),
            Some(b'{') => code_size(tag, "}}"),
            Some(b'%') => code_size(tag, "%}"),
            _ => 1,
        };
        let (tag, after) = tag.split_at(size);
        if tag.len() > MOST_CODE && tag.as_bytes()[1] != b'#' && !is_raw(tag) && code_characters(tag) > MOST_CODE {
            return Err(format!("a tag has more than {MOST_CODE} characters outside quotes"));
        }
        elifs += usize::from(inside(tag).starts_with("elif"));
        if elifs > MOST_ELIFS {
            return Err(format!("it has more than {MOST_ELIFS} times elif"));
        }
        match tag.as_bytes().get(1) {
            Some(b'{') => out.push_str(&without_percent(tag)),
            Some(b'%') if !is_raw(tag) => out.push_str(&without_percent(&without_generation(tag))),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// The compiler's stack of 8 MiB holds 20,000 operators in one tag, or 7,000 elif.
const MOST_CODE: usize = 8000;
const MOST_ELIFS: usize = 1000;

fn code_characters(tag: &str) -> usize {
    let (mut at, mut count) = (0, 0);
    while at < tag.len() {
        at += step(&tag[at..]);
        count += 1;
    }
    count
}

fn inside(tag: &str) -> &str {
    let inside = tag.strip_prefix("{%").unwrap_or(tag);
    inside.trim_start_matches(['-', '+']).trim_start()
}

fn is_raw(tag: &str) -> bool {
    inside(tag).strip_prefix("raw").is_some_and(|rest| rest.trim_start().trim_start_matches(['-', '+']).starts_with("%}"))
}

fn without_generation(tag: &str) -> String {
    let word = inside(tag).trim_end_matches("%}").trim_end_matches(['-', '+']).trim_end();
    match word {
        "generation" => tag.replacen("generation", "if true", 1),
        "endgeneration" => tag.replacen("endgeneration", "endif", 1),
        _ => tag.to_owned(),
    }
}

/// Bytes of the tag at the start of `text`, its end `close` included; texts in quotes hide one.
fn code_size(text: &str, close: &str) -> usize {
    let mut at = 2;
    while at < text.len() {
        if text[at..].starts_with(close) {
            return at + close.len();
        }
        at += step(&text[at..]);
    }
    text.len()
}

/// Bytes of the character, or of the whole text in quotes, that `code` begins with.
fn step(code: &str) -> usize {
    let mut characters = code.char_indices();
    let Some((_, first)) = characters.next() else { return 0 };
    if first != '\'' && first != '"' {
        return first.len_utf8();
    }
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => drop(characters.next()),
            _ if c == first => return at + 1,
            _ => {}
        }
    }
    code.len()
}

fn without_percent(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(step(rest));
        out.push_str(piece);
        rest = after;
        if !piece.starts_with(['\'', '"']) {
            continue;
        }
        let Some(right) = rest.trim_start().strip_prefix('%').filter(|right| !right.starts_with('}')) else { continue };
        let right = right.trim_start();
        let (operand, after) = right.split_at(operand_size(right));
        let many = is_tuple(operand);
        out.push_str(&format!("|{PERCENT}({}, {many})", without_percent(operand)));
        rest = after;
    }
    out
}

/// Bytes of the operand that `code` begins with: a sign, a primary, and what hangs on it by dots, brackets and bars.
fn operand_size(code: &str) -> usize {
    let mut at = code.len() - code.trim_start_matches(['-', '+']).len();
    at += primary_size(&code[at..]);
    loop {
        let rest = code[at..].trim_start();
        let start = code.len() - rest.len();
        at = match rest.chars().next() {
            Some('(' | '[') => start + brackets_size(rest),
            Some('.' | '|') => {
                let name = rest[1..].trim_start();
                code.len() - name.len() + primary_size(name)
            }
            _ => return at,
        }
    }
}

fn primary_size(code: &str) -> usize {
    match code.chars().next() {
        Some('(' | '[' | '{') => brackets_size(code),
        Some('\'' | '"') => step(code),
        _ => code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len()),
    }
}

fn brackets_size(code: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < code.len() {
        match code.as_bytes()[at] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        at += step(&code[at..]);
        if depth == 0 {
            return at;
        }
    }
    code.len()
}

/// "(a, b)" and nothing behind it.
fn is_tuple(operand: &str) -> bool {
    if !operand.starts_with('(') || brackets_size(operand) != operand.len() {
        return false;
    }
    let mut at = 1;
    while at < operand.len() {
        match operand.as_bytes()[at] {
            b',' => return true,
            b'(' | b'[' | b'{' => at += brackets_size(&operand[at..]),
            _ => at += step(&operand[at..]),
        }
    }
    false
}
