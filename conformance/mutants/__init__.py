"""The proof that the suite works: broken servers that it must catch, and correct ones that it must not blame.

Three kinds of targets, all in this process and on a virtual clock, so that a 30 s timer costs nothing:

- **mutants**: the reference server with one small patch that breaks one requirement. The named check must
  fail, cite that requirement, and say what the author of the mutant expects it to say. A crash or a time-out
  is not a kill.
- **null targets**: servers that understand nothing (silent, echo, always-ok, ...), with a pinned list of the
  checks that they may pass.
- **legal variants**: unusual but correct servers, which must stay green.

Run in the folder `conformance`, or by `make selftest`:

    python -m mutants                      everything
    python -m mutants 'rpc/*' legal/slow   only these, with what the checks said
    python -m mutants --matrix             everything, each mutant before nearly every check; slow
    python -m mutants --explore            those that only `holdfast explore` can find, before it
    python -m mutants --list               names, requirements, checks
    python -m mutants --serve NAME         be that mutant, on a free port, to look at it by hand

This folder is never shipped, and it is the one place that may import both the reference server and the suite.

To add a mutant, write in the file of its area, with a docstring that says what the server does wrong:

    @mutant("rpc/terminal-twice", violates="RPC-01", killed_by="rpc/one-terminal", says="a second terminal")
    def _(patch: Patch) -> None: ...

`says` is a part of the failure message of the check. `killed_by` may be a list: then each of them must kill
it. It may also be an ambient rule; then `during` names checks that give it something to watch. A patch holds
for the life of one server and is undone by the harness, so patch classes, modules and tables at will;
`patch.config` and `patch.target` change the server's configuration and the target file.
"""
