//! Chat templates in the dialect of `transformers`: trim_blocks, lstrip_blocks, loop controls, Python's methods on
//! strings, lists and dicts and its `%` (python.rs), raise_exception, strftime_now, a tojson without HTML escapes, and
//! True/False/None.

use std::ffi::{c_char, CString};

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde::Serialize;

use crate::python;

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
        let source: Box<str> = python::adapt(source)?.into_boxed_str();
        // Safety: the text lives on the heap, unchanged, as long as the environment beside it.
        let text: &'static str = unsafe { &*(source.as_ref() as *const str) };
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(python::unknown_method);
        environment.set_formatter(|out, state, value| match value.kind() {
            ValueKind::Bool | ValueKind::None | ValueKind::Seq | ValueKind::Map => {
                out.write_str(&python::written(value)).map_err(Error::from)
            }
            _ => minijinja::escape_formatter(out, state, value),
        });
        environment.add_function("raise_exception", |text: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        environment.add_function("strftime_now", move |format: String| strftime(now, &format));
        environment.add_filter("tojson", tojson);
        python::add_to(&mut environment);
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

/// json.dumps(value, ensure_ascii, indent, separators, sort_keys), as transformers' filter: by default nothing is
/// escaped, and spaces stand behind "," and ":".
fn tojson(value: Value, args: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = args.get("indent")?;
    let ascii = args.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = args.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators: Option<Vec<String>> = args.get("separators")?;
    args.assert_all_used()?;
    let wrong = |e: &dyn std::fmt::Display| Error::new(ErrorKind::BadSerialization, e.to_string());
    let value = serde_json::to_value(&value).map_err(|e| wrong(&e))?;
    let value = if sorted { with_sorted_keys(value) } else { value };
    let (item, key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }, ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(wrong(&"separators are two texts")),
    };
    let layout = PythonLayout { indent: indent.map(|n| n.min(64)), item, key, depth: 0, any: false };
    let mut out = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, layout)).map_err(|e| wrong(&e))?;
    let text = String::from_utf8(out).map_err(|e| wrong(&e))?;
    Ok(Value::from_safe_string(if ascii { in_ascii(&text) } else { text }))
}

fn with_sorted_keys(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(k, v)| (k, with_sorted_keys(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            serde_json::Value::Object(entries.into_iter().collect())
        }
        serde_json::Value::Array(items) => {
            serde_json::Value::Array(items.into_iter().map(with_sorted_keys).collect())
        }
        other => other,
    }
}

fn in_ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    out
}

struct PythonLayout<'a> {
    indent: Option<usize>,
    item: &'a str,
    key: &'a str,
    depth: usize,
    /// The list or object that is open has something in it.
    any: bool,
}

impl PythonLayout<'_> {
    fn open<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> std::io::Result<()> {
        self.depth += 1;
        self.any = false;
        writer.write_all(bracket)
    }
    fn close<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> std::io::Result<()> {
        self.depth -= 1;
        if self.any {
            self.new_line(writer)?;
        }
        self.any = true;
        writer.write_all(bracket)
    }
    fn next<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.any = true;
        self.new_line(writer)
    }
    fn new_line<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        match self.indent {
            Some(indent) => write!(writer, "\n{:1$}", "", indent * self.depth),
            None => Ok(()),
        }
    }
}

impl serde_json::ser::Formatter for PythonLayout<'_> {
    fn begin_array<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.open(writer, b"[")
    }
    fn end_array<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.close(writer, b"]")
    }
    fn begin_object<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.open(writer, b"{")
    }
    fn end_object<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.close(writer, b"}")
    }
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.next(writer, first)
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.next(writer, first)
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}
