"""Machine instructions of kernels as ptxas made them (sm_90: 16 bytes each), and the line of PTX that
each comes from, by the line table of the object. Nothing is disassembled but what calls, branches
and no-operations are, and where branches of warps that have parted lead."""
import struct

BRANCH, CALL, JOIN, NO_OPERATION = 0x947, 0x944, 0x941, 0x918  # of an instruction's lowest 12 bits
LINE_TABLE = ".debug_line"


def text_at(table, at):
    return table[at:table.index(b"\0", at)].decode()


class Object:
    """An ELF object, little-endian, 64 bits."""

    def __init__(self, content):
        self.content = content
        start, = struct.unpack_from("<Q", content, 0x28)
        size, count, names = struct.unpack_from("<HHH", content, 0x3a)
        rows = [struct.unpack_from("<IIQQQQIIQQ", content, start + i * size) for i in range(count)]
        table = self.bytes(rows[names])
        self.sections = [(text_at(table, row[0]), row) for row in rows]
        name, row = next(s for s in self.sections if s[0] == ".symtab")
        strings = self.bytes(rows[row[6]])
        self.symbols = []  # (name, is a function, section, value, size)
        for at in range(row[4], row[4] + row[5], 24):
            label, info, _, section, value, length = struct.unpack_from("<IBBHQQ", content, at)
            self.symbols.append((text_at(strings, label), info & 15 == 2, section, value, length))

    def bytes(self, row):
        return b"" if row[1] == 8 else self.content[row[4]:row[4] + row[5]]  # 8: no bits

    def section(self, name):
        return self.bytes(next(row for found, row in self.sections if found == name))

    def targets(self, name):
        """{offset in section `name`: symbol that the linker puts there}"""
        row = next((row for found, row in self.sections if found == ".rela" + name), None)
        found = {}
        for at in range(row[4], row[4] + row[5], 24) if row else ():
            offset, info, _ = struct.unpack_from("<QQq", self.content, at)
            found[offset] = self.symbols[info >> 32]
        return found


def leb(data, at, signed):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return (value - (1 << shift) if signed and byte & 64 else value), at


def lines_of(made):
    """{section number: [(address, line)]} of a line table of DWARF 2, in its order."""
    data, targets, at, found = made.section(LINE_TABLE), made.targets(LINE_TABLE), 0, {}
    while at < len(data):
        length, version, prologue = struct.unpack_from("<IHI", data, at)
        if version != 2:
            raise ValueError("a line table of version %d" % version)
        least, _, base, span, opcodes = struct.unpack_from("<BBbBB", data, at + 10)
        counts, end = data[at + 15:at + 14 + opcodes], at + 4 + length
        at += 10 + prologue
        address, line, rows = 0, 1, None
        while at < end:
            opcode = data[at]
            at += 1
            if opcode >= opcodes:
                address += (opcode - opcodes) // span * least
                line += base + (opcode - opcodes) % span
                rows.append((address, line))
            elif opcode == 0:
                size, at = leb(data, at, False)
                if data[at] == 2:
                    rows = found.setdefault(targets[at + 1][2], [])
                    address = targets[at + 1][3]
                elif data[at] == 1:
                    rows.append((address, None))
                    address, line = 0, 1
                at += size
            elif opcode == 1:
                rows.append((address, line))
            elif opcode == 2:
                step, at = leb(data, at, False)
                address += step * least
            elif opcode == 3:
                step, at = leb(data, at, True)
                line += step
            elif opcode == 8:
                address += (255 - opcodes) // span * least
            elif opcode == 9:
                address += struct.unpack_from("<H", data, at)[0]
                at += 2
            else:
                for _ in range(counts[opcode - 1]):
                    _, at = leb(data, at, False)
        at = end
    return found


def parted(words):
    """For each instruction: whether only warps whose lanes have parted come there. A shuffle that
    all lanes take part in, where ptxas cannot know that they are together, has such a path: from
    where a branch (.DIV) leads to the branch back."""
    found = [False] * len(words)
    for i, word in enumerate(words):
        if word & 0xfff != BRANCH or word >> 32 & 3 != 2:
            continue
        to = i + 1 + ((word >> 34) << 8 | word >> 16 & 0xff) * 4 // 16
        while not found[to]:
            found[to] = True
            always = words[to] >> 12 & 15 == 7 and words[to] >> 32 & 3 == 0
            if words[to] & 0xfff == BRANCH and always:
                break
            to += 1
    return found


def without_slow_paths(code, is_call):
    """Left out: no-operations, and calls of slow paths of divisions and such (of a line that is no
    call), with the moves around them: numbers as they occur in counts do not take them."""
    drop = [opcode == NO_OPERATION for opcode, _ in code]
    for i, (opcode, line) in enumerate(code):
        if opcode != CALL or is_call(line):
            continue
        drop[i] = True
        before = i - 1
        while before >= 0 and i - before <= 6 and code[before][0] not in (BRANCH, JOIN):
            drop[before] = code[before][1] == line
            before -= 1
        for after in range(i + 1, min(i + 4, len(code))):
            if code[after][0] == JOIN or after == i + 3 and code[after][0] != BRANCH:
                break
            drop[after] = True
            if code[after][0] == BRANCH:
                break
    return [line for (_, line), dropped in zip(code, drop) if not dropped]


def instructions(content, is_call):
    """{entry: {function that it calls, or the entry itself: [lines, one an instruction]}}"""
    made = Object(content)
    lines, found = lines_of(made), {}
    for number, (name, row) in enumerate(made.sections):
        if not name.startswith(".text."):
            continue
        entry, code = name[len(".text."):], made.bytes(row)
        inner = sorted((s for s in made.symbols if s[1] and s[2] == number and s[0] != entry),
                       key=lambda s: s[3])
        bounds = [(0, inner[0][3] if inner else len(code), entry)] + [
            (s[3], s[3] + s[4], s[0].split("$")[-1]) for s in inner]
        rows = sorted(lines.get(number, []), key=lambda r: r[0])
        parts = found[entry] = {}
        at, line = 0, None
        by_address = []
        words = [struct.unpack_from("<Q", code, address)[0] for address in range(0, len(code), 16)]
        apart = parted(words)
        for address in range(0, len(code), 16):
            while at < len(rows) and rows[at][0] <= address:
                line = rows[at][1]
                at += 1
            opcode = NO_OPERATION if apart[address // 16] else words[address // 16] & 0xfff
            by_address.append((opcode, line))
        for begin, end, label in bounds:
            parts[label] = without_slow_paths(by_address[begin // 16:end // 16], is_call)
    return found
