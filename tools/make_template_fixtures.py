#!/usr/bin/env python3
"""Makes tests/fixtures/text/python_templates.json: what Jinja2 and Python say to pieces of chat templates.

    tools/make_template_fixtures.py [OUT]

Needs jinja2. The environment is that of `transformers` (sandboxed, trim_blocks, lstrip_blocks, loop controls, generation
marks, its tojson, raise_exception and strftime_now). Every piece was written for this test.
"""
import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

MESSAGES = [{"role": "user", "content": "Hi <b> \u00e9"}, {"role": "assistant", "content": " yes "}]
BEFORE = "{% set n = 'Ann' %}{% set e = '' %}{% set zero = 0 %}{% set loop_index = 4 %}"

EXPRESSIONS = r'''
'%s and %d' % ('a', 3)
'%s' % 'x'
'%(a)s=%(b)02d' % {'a': 'k', 'b': 7}
'%5.2f|%-6s|%+d|%x|%o|%e|%%' % (3.14159, 'ab', 5, 255, 8, 12345.678)
'%s %s' % (true, none)
'%03d' % loop_index
"a" ~ '%s' % n ~ "b"
'%s' % n + '!'
'%s' % messages[0].content
'%s' % messages[0]['content'] | upper
'%s' % (messages | length)
'%s-%s' % (n | upper, messages[0].get('role'))
('%d' % 7) == '7'
'{"a": "%s"}' % n
'100%' ~ n
7 % 4
n % 1 if n is number else 'text'
'%r' % 5
'%i|%c' % (3, 'z')
'%s' % [1, 2]
'%.3s|' % 'abcdef'
'%s' % {'a': 1}.a
'%s' % -3
'%s' % (1 + 2)
'%s' % ('%s' % 'inner')
'a-b'.partition('-')[2]
'prefix text'.removeprefix('prefix ')
'prefix text'.removeprefix('no')
'text suffix'.removesuffix(' suffix')
'aa'.removesuffix('')
'a b  c d'.rsplit()
'a b  c d'.rsplit(none, 1)
'  a b  '.rsplit(none, 2)
'a,b,c'.rsplit(',', 1)
'a,b,c'.rsplit(',')
'a,b,c'.split(',', 1)
'a,b,c'.split(',')
' a  b '.split()
' a  b c '.split(none, 1)
'a\nb\r\nc\n'.splitlines()
'a\nb\n'.splitlines(true)
'7'.zfill(3)
'-7'.zfill(4)
'+x'.zfill(1)
'ab'.ljust(5) ~ '|'
'ab'.rjust(5, '.')
'ab'.center(5, '*')
'abc'.center(6, '*')
'é'.center(4, '*')
'ÄÖ'.lower()
'Straße'.casefold() if false else 'STRASSE'.casefold()
'aBc'.swapcase()
'grüße'.find('e')
'grüße'.rfind('ß')
'abc'.find('z')
'grüße'.index('ß')
'banana'.count('an')
'abc'.count('')
''.isdigit()
'12'.isdigit()
''.isspace()
' \n'.isspace()
'abC1'.isalnum()
''.isalpha()
'1a'.islower()
'1'.islower()
'A1'.isupper()
'hello world'.title()
'hello World'.capitalize()
'xxhixx'.strip('x')
'xxhi'.lstrip('x')
'hi\n\n'.rstrip('\n') ~ '|'
'a.b'.replace('.', '\n')
'aaa'.replace('a', 'b', 2)
'aaa' | replace('a', 'b', 2)
'aaa' | replace('a', 'b')
','.join(['a', 'b'])
'{} and {name}'.format('x', name='y')
'{:>5}|{:05.1f}'.format('ab', 2.25)
'abc'.startswith('ab')
'abc'.startswith(('x', 'a'))
'abc'.endswith(('x', 'c'))
'abc'[::-1]
'abc'[-1]
'héllo'[1:3]
messages[::-1][0].role
messages[-1]['role']
[1, 2, 3].index(2)
[1, 1].count(1)
{'a': 1}.keys() | list
{'a': 1}.values() | list
{'a': 1}.get('b', 'none')
{'a': [1, 'x', none, true]}
['it''s', "it's", 'say "hi"', 'both \' and "']
[1.0, 2.5, -3]
none
[none, true]
e and 'x'
n and 'x'
e or 'x'
0 or e
zero and 'x'
not e
e if e else 'else'
'yes' if n
none is iterable
undefined_name is iterable
'a' is iterable
messages is sequence
messages is mapping
messages[0] is mapping
messages[0].content is string
undefined_name is defined
strftime_now is defined
strftime_now is callable
n is callable
raise_exception is defined
undefined_name | length
undefined_name
undefined_name | default('d')
e | default('d', true)
none | default('d')
'a' in 'abc'
'x' not in 'abc'
'role' in messages[0]
1 < 2 < 3
2 ** 3
7 // 2
-7 // 2
-7 % 3
7 / 2
1 == 1.0
'a' * 3
[1] + [2]
'a' 'b'
"tab\tnew\nline \x41 \u00e9"
'a\\b'
range(3) | list
range(5)[1:3] | list
dict(a=1)
namespace(a=1).a
[3, 1, 2] | sort
['b', 'A'] | sort
[1, 2, 3] | first
[1, 2, 3] | last
'abc' | first
'abc' | reverse
[1, 2] | reverse | list
'a b' | title
'abc' | capitalize
'  x ' | trim
'xax' | trim('x')
['a', 'b'] | join(', ')
[1, 2, 2] | unique | list
[1, 2, 3, 4] | batch(2) | list
[1, 2] | sum
'5' | int + 1
'x' | int
3.7 | int
3.456 | round(1)
3 | string
'a<b' | e
'a<b' | safe
'a<b' | escape
'line\nline2' | indent(2)
'line\nline2' | indent(2, true)
messages | map(attribute='role') | list
messages | map('length') | list
['a', 'b'] | map('upper') | list
messages | selectattr('role', 'equalto', 'user') | list | length
messages | selectattr('role', 'eq', 'user') | map(attribute='content') | first
messages | rejectattr('role', 'equalto', 'user') | list | length
['a', '', 'b'] | select | list
['a', ''] | reject | list
messages | groupby('role') | list | length
'a-b' | list
'word word' | wordcount
'abc' | center(9)
'%s-%s' | format('a', 'b')
[1,2] | tojson
{'a': 'é"<'} | tojson
'x' | tojson
[{'a': [1, {'b': none}]}] | tojson(indent=4)
{'b': 1, 'a': 2} | tojson(sort_keys=true)
[1, 2] | tojson(separators=(',', ':'))
'é' | tojson(ensure_ascii=true)
[] | tojson(indent=2)
1.0 | tojson
loop_index | abs
messages | length > 0 and messages[0].role == 'user'
(messages | length) - 1
strftime_now('%d') | length
messages[0].content.split('<')[0].strip() | upper
messages[5].content is defined
messages[0].nothing is none
messages[0].nothing
messages[0].get('nothing') is none
true and false
true
False
None
3 is odd
4 is divisibleby(2)
3 is number
3.0 is float
3 is integer
true is boolean
'a' is upper
none is none
n is not none
1 is eq 1
'a' is in 'abc'
n == 'Ann' and 'yes' or 'no'
[x_undefined, 1] | list | length
'a' ~ 1 ~ none ~ true ~ 2.5
'%d%%' % 50
'\'' ~ "\""
'{{' ~ '}}'
'{%' ~ '%}'
'#}' ~ 'x'
(1, 2)[0]
{'a': {'b': 'c'}}.a.b
{'a': 1}['a']
{1: 'x'}[1]
'abc'[1]
'abc'.upper()[0]
'x'.join('abc')
'abc' | list | join('-')
'Ab'.lower() == 'ab'
'a' < 'b'
[1, 2] == [1, 2]
'abc'.isascii()
'x'.isdecimal()
messages | list | count
messages | last
{'a': 1, 'b': [true, none, 'x']}
'%s' % messages[0]
3 | string ~ 'x'
['a'] | string
{'a': 'b'} | string
'a' if n == 'Ann' else 'b' if n else 'c'
[1, 2, 3][1:] | first
'a-b-c'.partition('-') | join('|')
'a-b-c'.rpartition('-') | join('|')
'abc'.partition('-') | join('|')
'abc'.rpartition('-') | join('|')
({'b': 1, 'a': 2} | dictsort)[0] | join('=')
'''.strip("\n").split("\n")

TEMPLATES = [
    "{% for m in messages %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.previtem.role }}{{ loop.nextitem.role }}{{ loop.cycle('a', 'b') }};{% else %}none{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
    "{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}",
    "{% set a, b = 'x-y'.split('-') %}{{ a }}{{ b }}",
    "{% set ns = namespace(found=false, text='') %}{% for m in messages %}{% set ns.found = true %}{% set ns.text = ns.text ~ '%s:%s;' % (m.role, m.content | trim) %}{% endfor %}{{ ns.found }} {{ ns.text }}",
    "{% set t %}  block {{ n }} {% endset %}{{ t | trim }}",
    "{%- macro f(a, b='d') %}{{ a }}{{ b }}{% endmacro %}{{ f('x') }}{{ f('x', b='y') }}",
    "{% macro wrap() %}<{{ caller() }}>{% endmacro %}{% call wrap() %}in{% endcall %}",
    "{% if messages[0]['role'] == 'system' %}s{% elif messages|length == 1 %}one{% else %}o{% endif %}",
    "{% raw %}{{ '%s' % x }}{% endraw %}",
    "{# '%s' % x #}after",
    "{%- for m in messages -%}\n  {%- if not loop.first %}, {% endif -%}\n  {{- m.role -}}\n{%- endfor -%}\n",
    "{% filter upper %}text{% endfilter %}",
    "{% with a = 1 %}{{ a }}{% endwith %}",
    "{% generation %}g{% endgeneration %}{%- generation -%} h {%- endgeneration -%}",
    "a\n{% if true %}\n  b\n  {% endif %}\nc\n",
    "{{ '%s' % 'a }} b' }}",
    "{{ 'x' }}% {{ 'y' }}",
    "{% set d = {'a': 1} %}{% for k, v in d.items() %}{{ '%s=%s' % (k, v) }}{% endfor %}",
    "{% for i in range(3) %}{{ '%02d' % i }}{{ ', ' if not loop.last }}{% endfor %}",
    "{% set x = '%s' % n -%}\n{{ x }}",
    "{% if '%s' % n == 'Ann' %}same{% endif %}",
    "{{ messages[0].content.partition('i')[0] ~ messages[0].content.removeprefix('H') }}",
    "{% set s = messages[0].content %}{{ s[:1] }}|{{ s[1:] }}|{{ s[-2:] }}",
    "{{ raise_exception('no %s here' % n) }}",
    "{% for m in messages %}{% if loop.index0 % 2 == 0 %}even{% endif %}{% endfor %}",
    "{% for c in 'ab' %}{{ c }}.{% endfor %}",
    "{% for k in {'a': 1} %}{{ k }}{% endfor %}",
    "{% set items = messages | map(attribute='content') | list %}{{ items }}",
    "{%+ if true %}x{% endif +%}\ny",
    "{% set ns = namespace() %}{% set ns.x = [] %}{% for m in messages %}{% set ns.x = ns.x + [m.role] %}{% endfor %}{{ ns.x | join(',') }}",
]


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_words"), [], [], body).set_lineno(line)

    def _words(self, caller):
        return caller()


def environment():
    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    out = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    out.filters["tojson"] = tojson
    out.globals["raise_exception"] = raise_exception
    out.globals["strftime_now"] = lambda text: datetime.datetime.now().strftime(text)
    return out


def main():
    here = pathlib.Path(__file__).resolve().parent.parent
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else here / "tests/fixtures/text/python_templates.json")
    cases = []
    for source in ["{{ " + x + " }}" for x in EXPRESSIONS] + TEMPLATES:
        case = {"template": BEFORE + source}
        try:
            case["text"] = environment().from_string(case["template"]).render(
                messages=MESSAGES, tools=None, documents=None, add_generation_prompt=True, bos_token="<|im_start|>",
                eos_token="<|im_end|>")
        except (jinja2.exceptions.TemplateError, TypeError, ValueError, IndexError) as error:
            case["error"] = str(error)
        cases.append(case)
    text = json.dumps({"messages": MESSAGES, "templates": cases}, ensure_ascii=False, indent=0)
    out.write_text(text + "\n", encoding="utf-8")
    print(f"{out}: {len(cases)} templates, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
