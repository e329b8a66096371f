#!/usr/bin/env python3
"""Streams one answer: generate.py [--endpoint tcp://127.0.0.1:5555] "Why are Christmas markets so popular?" """

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import tailor_client  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("prompt")
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:5555")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    args = parser.parse_args()
    with tailor_client.Client(args.endpoint) as client:
        client.submit(messages=[dict(role="user", content=args.prompt)], max_tokens=args.max_tokens,
                      temperature=args.temperature)
        for event in client.events():
            if isinstance(event, tailor_client.TokenChunk):
                print(event.text, end="", flush=True)
            elif isinstance(event, tailor_client.Rejected):
                sys.exit(str(event.error))
            elif isinstance(event, tailor_client.Finished):
                print()
                if event.error is not None:
                    sys.exit(str(event.error))


if __name__ == "__main__":
    main()
