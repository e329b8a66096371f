//! Chat templates in the dialect of `transformers`: trim_blocks, lstrip_blocks, loop controls, Python's methods on
//! strings, lists and dicts, raise_exception, strftime_now, a tojson without HTML escapes, and True/False/None.

use std::ffi::{c_char, CString};

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde::Serialize;

/// tailor_text.h: tt_strftime.
pub type Strftime = extern "C" fn(*const c_char, *mut c_char, usize) -> usize;

/// Steps one rendering may take. A template with a page of logic takes about 50 for each message.
const FUEL: u64 = 10_000_000;
/// Calls inside calls (macros, recursive loops): far below what a thread's stack holds.
const RECURSION: usize = 120;

const NAME: &str = "chat_template";

pub struct ChatTemplate {
    /// Borrows from `_source`; declared before it, so dropped before it.
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
    _source: Box<str>,
}

impl ChatTemplate {
    pub fn compile(
        source: &str,
        bos_token: &str,
        eos_token: &str,
        now: Strftime,
    ) -> Result<ChatTemplate, String> {
        let source: Box<str> = without_generation_marks(source).into_boxed_str();
        // Safety: the text lives on the heap, unchanged, as long as the environment beside it.
        let text: &'static str = unsafe { &*(source.as_ref() as *const str) };
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, state, value| match value.kind() {
            ValueKind::Bool => {
                out.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from)
            }
            ValueKind::None => out.write_str("None").map_err(Error::from),
            _ => minijinja::escape_formatter(out, state, value),
        });
        environment.add_function("raise_exception", |text: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        environment.add_function("strftime_now", move |format: String| strftime(now, &format));
        environment.add_filter("tojson", tojson);
        environment.add_template(NAME, text).map_err(|e| describe(&e))?;
        Ok(ChatTemplate {
            environment,
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
            _source: source,
        })
    }

    pub fn render(&self, messages: &[(&str, &str)], add_generation_prompt: bool) -> Result<String, String> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|(role, content)| {
                Value::from_iter([("role", Value::from(*role)), ("content", Value::from(*content))])
            })
            .collect();
        let mut names = vec![
            ("messages", Value::from(messages)),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        // A model without such a token leaves the name undefined, as `transformers` does.
        for (name, token) in [("bos_token", &self.bos_token), ("eos_token", &self.eos_token)] {
            if !token.is_empty() {
                names.push((name, Value::from(token.as_str())));
            }
        }
        let template = self.environment.get_template(NAME).map_err(|e| describe(&e))?;
        template.render(Value::from_iter(names)).map_err(|e| describe(&e))
    }
}

fn describe(error: &Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!(" (line {line} of the chat template)"));
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("the chat template took more than {FUEL} steps"),
        (ErrorKind::InvalidOperation, Some(detail)) => format!("{detail}{line}"),
        (kind, Some(detail)) => format!("{kind}: {detail}{line}"),
        (kind, None) => format!("{kind}{line}"),
    }
}

fn strftime(now: Strftime, format: &str) -> Result<String, Error> {
    let wrong = |text: &str| Error::new(ErrorKind::InvalidOperation, text.to_owned());
    let format = CString::new(format).map_err(|_| wrong("strftime_now: the format holds a NUL byte"))?;
    let mut out = vec![0u8; 256];
    let size = now(format.as_ptr(), out.as_mut_ptr() as *mut c_char, out.len());
    out.truncate(size);
    String::from_utf8(out).map_err(|_| wrong("strftime_now: the answer is not UTF-8"))
}

/// json.dumps(value, ensure_ascii=False, indent=indent), with Python's spaces after "," and ":".
fn tojson(value: Value, args: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = args.get("indent")?;
    for name in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = args.get(name)?; // accepted, as transformers' filter does; the default is what is used
    }
    args.assert_all_used()?;
    let wrong = |e: &dyn std::fmt::Display| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    match indent {
        Some(indent) => {
            let spaces = vec![b' '; indent.min(64)];
            let mut json = serde_json::Serializer::with_formatter(
                &mut out,
                serde_json::ser::PrettyFormatter::with_indent(&spaces),
            );
            value.serialize(&mut json).map_err(|e| wrong(&e))?;
        }
        None => {
            let mut json = serde_json::Serializer::with_formatter(&mut out, PythonSpaces);
            value.serialize(&mut json).map_err(|e| wrong(&e))?;
        }
    }
    let text = String::from_utf8(out).map_err(|e| wrong(&e))?;
    Ok(Value::from_safe_string(text))
}

struct PythonSpaces;

impl serde_json::ser::Formatter for PythonSpaces {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// `{% generation %}` ... `{% endgeneration %}` mark the assistant's words for training; here they become an `if true`.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let end = tag.find("%}").unwrap_or(tag.len());
        let inside = &tag[..end];
        match inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => out.push_str(&inside.replace("generation", "if true")),
            "endgeneration" => out.push_str(&inside.replace("endgeneration", "endif")),
            _ => out.push_str(inside),
        }
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}
