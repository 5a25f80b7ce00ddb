"""Kernels as nvcc compiles them, as C++ that counts what a GPU would issue.

PTX is read by parse(), written as C++ by bodies() (played.h says how that runs), and told to ptxas
with each of its lines named as a source line (with_lines()), so that the line table of what comes
out tells from which PTX instruction every machine instruction is. play.py puts this together."""
import re

SIZES = {"8": "uint8_t", "16": "uint16_t", "32": "uint32_t", "64": "uint64_t"}
SPECIAL = {"%tid": "threadIdx", "%ctaid": "blockIdx", "%ntid": "blockDim", "%nctaid": "gridDim"}
COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<",
            "ls": "<=", "hi": ">", "hs": ">="}
NOTHING = ("membar", "fence", "prefetch", "griddepcontrol", "discard")


class Unknown(Exception):
    pass


def c_type(name):
    """Of a PTX type without its dot."""
    if name == "pred":
        return "bool"
    if name in ("f32", "f64"):
        return "float" if name == "f32" else "double"
    if name[1:] not in SIZES or name[0] not in "bus":
        raise Unknown("type .%s" % name)
    return ("int%s_t" % name[1:]) if name[0] == "s" else SIZES[name[1:]]


def c_name(name):
    return re.sub(r"\W", "_", name.replace("%", "r_"))


# --- reading ------------------------------------------------------------------------------------

class Function:
    """An .entry or .func: statements (line, text) and braces; params and the result's are bytes."""

    def __init__(self, kind, name, params, result):
        self.kind, self.name, self.params, self.result = kind, name, params, result
        self.statements = []
        self.blocks = []  # basic blocks: lists of lines


def without_comments(text):
    return re.sub(r"//[^\n]*", "", text)


def bytes_of(declaration):
    """{name: bytes} of .param declarations."""
    found = {}
    for part in declaration.split(","):
        match = re.search(r"\.param(?: \.align \d+)? \.([bfus])(\d+) ([\w$]+)(?:\[(\d+)\])?",
                          " ".join(part.split()))
        if match:
            found[match.group(3)] = int(match.group(2)) // 8 * int(match.group(4) or 1)
    return found


def statements_of(text, at):
    """From after the brace at `at` on: [(offset, statement)], and where the body ends."""
    found, depth, at = [], 0, at + 1
    while True:
        while text[at].isspace():
            at += 1
        label = re.compile(r"([$\w]+):").match(text, at)
        if text[at] == "}" and depth == 0:
            return found, at
        if text[at] in "{}":
            depth += 1 if text[at] == "{" else -1
            found.append((at, text[at]))
            at += 1
        elif label:
            found.append((at, label.group(0)))
            at = label.end()
        else:
            end = text.index(";", at)
            found.append((at, " ".join(text[at:end].split())))
            at = end + 1


def parse(text):
    """(functions, declarations outside of them)"""
    text = without_comments(text)
    functions, outside, at = [], [], 0
    heading = re.compile(r"\.(entry|func)\s+(?:\(([^)]*)\)\s*)?([\w$]+)\s*(?:\(([^)]*)\))?([^;{]*)([;{])")
    for match in heading.finditer(text):
        if match.start() < at:
            continue
        outside.append(text[at:match.start()])
        at = match.end()
        if match.group(6) == ";":
            continue
        made = Function(match.group(1), match.group(3), bytes_of(match.group(4) or ""),
                        list(bytes_of(match.group(2) or "")))
        found, end = statements_of(text, match.end() - 1)
        made.statements = [(text.count("\n", 0, offset) + 1, words) for offset, words in found]
        functions.append(made)
        at = end + 1
    return functions, "".join(outside + [text[at:]])


# --- one instruction ----------------------------------------------------------------------------

class Writer:
    """C++ of the statements of one function."""

    def __init__(self, function):
        self.function = function
        self.scopes = [{}]
        self.lines = []
        self.block = None

    def register(self, name):
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return None

    def value(self, operand, wanted):
        """An operand as a C++ expression of type `wanted`."""
        operand = operand.strip()
        if operand.startswith(("!", "-%")):
            return "%s(%s)" % (operand[0], self.value(operand[1:], wanted))
        have = self.register(operand)
        if have:
            name = c_name(operand)
            return name if have == wanted else "as<%s>(%s)" % (wanted, name)
        if re.match(r"0[fF][0-9A-Fa-f]{8}$", operand):
            return "as<%s>(as<float>(0x%su))" % (wanted, operand[2:])
        if re.match(r"0[dD][0-9A-Fa-f]{16}$", operand):
            return "as<%s>(as<double>(static_cast<uint64_t>(0x%sull)))" % (wanted, operand[2:])
        if re.match(r"-?(0x[0-9A-Fa-f]+|\d+)U?$", operand):
            number = int(operand.rstrip("U"), 0) & (2 ** 64 - 1)
            if wanted in ("float", "double"):
                raise Unknown("%s as %s" % (operand, wanted))
            return "static_cast<%s>(0x%xull)" % (wanted, number)
        if operand.split(".")[0] in SPECIAL:
            first, axis = operand.split(".")
            return "static_cast<%s>(%s.%s)" % (wanted, SPECIAL[first], axis)
        if operand == "%laneid":
            return "static_cast<%s>(av_emulated_lane())" % wanted
        if re.match(r"[$\w]+$", operand):
            return "static_cast<%s>(place(%s))" % (wanted, c_name(operand))
        raise Unknown("operand %s" % operand)

    def address(self, operand):
        base, offset = re.match(r"\[([%$\w]+)\s*(?:\+\s*(-?\d+))?\]$", operand).groups()
        return "%s + %sll" % (self.value(base, "uint64_t"), offset) if offset else \
            self.value(base, "uint64_t")

    def assign(self, target, expression, have):
        """`expression` is of type `have`."""
        if target != "_":
            wanted = self.register(target)
            if wanted is None:
                raise Unknown("register %s" % target)
            self.lines.append("%s = %s;" % (c_name(target), expression if wanted == have else
                                            "to<%s>(static_cast<%s>(%s))" % (wanted, have,
                                                                             expression)))

    def begin_block(self, line):
        self.block = []
        self.function.blocks.append(self.block)
        self.lines.append("++c[%s];" % ("@%d" % (len(self.function.blocks) - 1)))

    def declare(self, words):
        match = re.match(r"\.reg \.(\w+) (.*)", words)
        if match:
            kind = c_type(match.group(1))
            for name in match.group(2).split(","):
                several = re.match(r"(.*)<(\d+)>$", name.strip())
                names = ["%s%d" % (several.group(1), i) for i in range(int(several.group(2)))] \
                    if several else [name.strip()]
                self.scopes[-1].update({n: kind for n in names})
                self.lines.append("%s %s;" % (kind, ", ".join(map(c_name, names))))
            return
        match = re.match(r"\.(param|local|shared)(?: \.align \d+)? \.[bfus](\d+) ([$\w]+)(?:\[(\d+)\])?$",
                         words)
        if match:
            self.lines.append("alignas(16) %schar %s[%d];" % (
                "static " if match.group(1) == "shared" else "", c_name(match.group(3)),
                int(match.group(2)) // 8 * int(match.group(4) or 1)))
        elif not words.startswith((".pragma", ".loc", ".file")):
            raise Unknown(words)

    def statement(self, line, words):
        if words in "{}":
            self.lines.append(words)
            self.scopes.append({}) if words == "{" else self.scopes.pop()
        elif words.endswith(":"):
            self.lines.append("%s:;" % c_name(words[:-1]))
            self.block = None
        elif words.startswith("."):
            self.declare(words)
        else:
            if self.block is None:
                self.begin_block(line)
            self.block.append((line, words))
            self.guarded(words)

    def guarded(self, words):
        match = re.match(r"@(!?)(%\w+) (.*)", words)
        if match:
            self.lines.append("if (%s%s) {" % (match.group(1), c_name(match.group(2))))
            words = match.group(3)
        opcode, _, rest = words.partition(" ")
        self.instruction(opcode, rest.strip())
        if match:
            self.lines.append("}")
        if opcode.split(".")[0] in ("bra", "ret", "exit"):
            self.block = None

    def instruction(self, opcode, rest):
        root, *more = opcode.split(".")
        operands = [o.strip() for o in re.findall(r"\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|[^,\s]+", rest)]
        if root in NOTHING:
            return
        how = getattr(self, "do_" + root, None)
        if how:
            how(root, more, operands)
        else:
            self.computed(root, more, operands)

    # --- moves and memory

    def do_bra(self, root, more, operands):
        self.lines.append("goto %s;" % c_name(operands[0]))

    def do_ret(self, root, more, operands):
        self.lines.append("return;")

    do_exit = do_ret

    def do_mov(self, root, more, operands):
        kind = c_type(more[-1])
        target, source = operands
        if source.startswith("{"):
            parts = source[1:-1].split(",")
            half = SIZES[str(int(more[-1][1:]) // len(parts))]
            text = " | ".join("static_cast<%s>(%s) << %d" % (
                kind, self.value(part, half), i * int(more[-1][1:]) // len(parts))
                for i, part in enumerate(parts))
            self.assign(target, text, kind)
        elif target.startswith("{"):
            parts = [part.strip() for part in target[1:-1].split(",")]
            width = int(more[-1][1:]) // len(parts)
            for i, part in enumerate(parts):
                self.assign(part, "static_cast<%s>(%s >> %d)" % (
                    SIZES[str(width)], self.value(source, kind), i * width), SIZES[str(width)])
        else:
            self.assign(target, self.value(source, kind), kind)

    def do_cvta(self, root, more, operands):
        self.assign(operands[0], self.value(operands[1], "uint64_t"), "uint64_t")

    def vector(self, operand):
        return [part.strip() for part in operand[1:-1].split(",")] if operand[0] == "{" else \
            [operand]

    def do_ld(self, root, more, operands):
        kind, targets = c_type(more[-1]), self.vector(operands[0])
        # all loaded before any is assigned: the address may be one of them
        self.lines.append("{ const uint64_t at = %s;" % self.address(operands[1]))
        for i, target in enumerate(targets):
            self.assign(target, "load<%s>(at, %d)" % (kind, i), kind)
        self.lines.append("}")

    def do_st(self, root, more, operands):
        kind = c_type(more[-1])
        for i, source in enumerate(self.vector(operands[1])):
            self.lines.append("store<%s>(%s, %d, %s);" % (kind, self.address(operands[0]), i,
                                                          self.value(source, kind)))

    def do_atom(self, root, more, operands):
        kind = c_type(more[-1])
        self.assign(operands[0], "atomic_%s<%s>(%s, %s)" % (
            more[-2], kind, self.address(operands[1]),
            ", ".join(self.value(o, kind) for o in operands[2:])), kind)

    def do_call(self, root, more, operands):
        results = operands[0][1:-1].split(",") if operands[0][0] == "(" else []
        name, *rest = operands[1:] if results else operands
        arguments = [a.strip() for a in rest[0][1:-1].split(",")] if rest else []
        self.lines.append("%s(%s);" % (c_name(name), ", ".join(
            ["c"] + [c_name(a.strip()) for a in results + arguments if a.strip()])))

    # --- threads

    def do_bar(self, root, more, operands):
        if more[0] == "warp":
            self.lines.append("warp_sync(%s);" % self.value(operands[0], "uint32_t"))
        else:
            self.lines.append('av_emulated_barrier("PTX", 0);')

    do_barrier = do_bar

    def do_shfl(self, root, more, operands):
        target, *inside = operands[0].split("|")
        self.lines.append("{ bool in_range; const uint32_t got = shuffle_%s(%s, in_range);" % (
            more[1], ", ".join(self.value(o, "uint32_t") for o in operands[1:])))
        self.assign(target, "got", "uint32_t")
        for name in inside:
            self.assign(name, "in_range", "bool")
        self.lines.append("}")

    def do_vote(self, root, more, operands):
        made = {"ballot": "uint32_t", "any": "bool", "all": "bool"}[more[1]]
        self.assign(operands[0], "vote_%s(%s, %s)" % (
            more[1], self.value(operands[1], "bool"), self.value(operands[2], "uint32_t")), made)

    # --- arithmetic

    def do_setp(self, root, more, operands):
        kind = c_type(more[-1])
        a, b = (self.value(o, kind) for o in operands[1:3])
        how = more[0]
        if how in ("nan", "num"):
            text = "(%sunordered(%s, %s))" % ("" if how == "nan" else "!", a, b)
        elif how.endswith("u") and how[:-1] in COMPARED:
            text = "(unordered(%s, %s) || %s %s %s)" % (a, b, a, COMPARED[how[:-1]], b)
        elif how == "ne" and kind in ("float", "double"):
            text = "(!unordered(%s, %s) && %s != %s)" % (a, b, a, b)
        else:
            text = "(%s %s %s)" % (a, COMPARED[how], b)
        joint = {"and": "&&", "or": "||", "xor": "!="}.get(more[1])
        if joint:
            text = "(%s %s %s)" % (text, joint, self.value(operands[3], "bool"))
        self.assign(operands[0], text, "bool")

    def do_selp(self, root, more, operands):
        kind = c_type(more[-1])
        self.assign(operands[0], "%s ? %s : %s" % (
            self.value(operands[3], "bool"), self.value(operands[1], kind),
            self.value(operands[2], kind)), kind)

    def do_cvt(self, root, more, operands):
        made, have = c_type(more[-2]), c_type(more[-1])
        rounding = next((m for m in more[:-2] if re.match(r"r[nzmp]i?$", m)), "")
        text = "convert<%s>(%s, rounding::%s)" % (made, self.value(operands[1], have),
                                                  rounding or "none")
        self.assign(operands[0], "saturate(%s)" % text if "sat" in more else text, made)

    def do_shl(self, root, more, operands):
        kind = c_type(more[-1])
        self.assign(operands[0], "shift_%s<%s>(%s, %s)" % (
            "left" if root == "shl" else "right", kind, self.value(operands[1], kind),
            self.value(operands[2], "uint32_t")), kind)

    do_shr = do_shl

    def computed(self, root, more, operands):
        """d = played_ROOT[_MODE](a, b, c), of one type."""
        kind = c_type(more[-1])
        modes = [m for m in more[:-1] if m not in ("rn", "ftz", "sat", "approx", "full", "lo")]
        made = kind
        if "wide" in modes:
            made = kind.replace("32", "64").replace("16", "32")
        if root in ("popc", "clz", "bfind"):
            made = "uint32_t"
        name = "_".join(["played", root] + modes)
        carries = "cc" in modes or root.endswith("c") and root in ("addc", "subc", "madc")
        values = [self.value(o, kind) for o in operands[1:]]
        if root == "mad" and "wide" in modes:
            values[2] = self.value(operands[3], made)
        text = "%s<%s>(%s)" % (name, kind, ", ".join((["carry"] if carries else []) + values))
        self.assign(operands[0], "saturate(%s)" % text if "sat" in more else text, made)


# --- whole files --------------------------------------------------------------------------------

def variables(outside):
    """C++ of .global and .const tables."""
    lines = []
    for kind, align, bits, name, size, values in re.findall(
            r"\.(global|const)(?: \.align (\d+))? \.[bfus](\d+) ([$\w]+)(?:\[(\d+)\])?(?:\s*=\s*([^;]*))?;",
            " ".join(outside.split())):
        if values and bits != "8":
            raise Unknown("%s: a table of .b%s" % (name, bits))
        count = int(bits) // 8 * int(size or 1)
        lines.append("alignas(16) static unsigned char %s[%d]%s;" % (
            c_name(name), count, " = " + values if values else ""))
    return lines


def heading(function):
    if function.kind == "entry":
        return "static void %s(void *const *arguments)" % c_name(function.name)
    return "static void %s(%s)" % (c_name(function.name), ", ".join(
        ["uint32_t *c"] + ["char *" + c_name(p) for p in function.result + list(function.params)]))


def body(function):
    """C++ lines; basic blocks are numbered from `first` on."""
    writer = Writer(function)
    for line, words in function.statements:
        try:
            writer.statement(line, words)
        except (Unknown, KeyError, ValueError, AttributeError) as fault:
            raise Unknown("line %d, %s: %s" % (line, words, fault))
    start = ["uint32_t carry = 0; (void)carry;",
             "char *av_shared_ = static_cast<char *>(av_emulated_shared()); (void)av_shared_;"]
    if function.kind == "entry":
        start.append("uint32_t *c = played_thread(&kernel_%s);" % c_name(function.name))
        start += ["char *{0} = static_cast<char *>(arguments[{1}]); (void){0};".format(c_name(p), i)
                  for i, p in enumerate(function.params)]
    return [heading(function) + " {"] + start + [
        re.sub("@(\\d+)", lambda found: str(function.first + int(found.group(1))), line)
        for line in writer.lines] + ["}"]


def bodies(functions):
    """C++ lines of all; their basic blocks are numbered: those of functions first, which every
    kernel may call, then each kernel's."""
    lines, at = [], 0
    for function in sorted(functions, key=lambda f: f.kind == "entry"):
        function.first = at
        lines += body(function)
        if function.kind == "func":
            at += len(function.blocks)
    return lines


def with_lines(text):
    """PTX whose every instruction is said to come from its own line."""
    made = []
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*\.(loc|file)\s", line):
            line = ""
        words = without_comments(line).strip()
        if re.match(r"(@!?%\w+\s+)?[a-z][a-z0-9_.]*(\s|;)", words):
            made.append(".loc 1 %d 0" % number)
        made.append(line)
        if line.startswith(".address_size"):
            made.append('.file 1 "kernels.ptx"')
    return "\n".join(made) + "\n"
