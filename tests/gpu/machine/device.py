"""The GPU, through CUDA's driver and NVML, which come with every driver; no package is needed."""
import ctypes
import statistics
import threading
import time


class NoDevice(Exception):
    pass


def find():
    """Facts of CUDA's first GPU, as our program sees it; NoDevice says why there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise NoDevice("no GPU: there is no libcuda.so.1, so no driver")

    def call(name, *arguments):
        status = getattr(cuda, name)(*arguments)
        if status != 0:
            text = ctypes.c_char_p()
            cuda.cuGetErrorString(status, ctypes.byref(text))
            raise NoDevice("no GPU: %s says %s" % (name, (text.value or b"%d" % status).decode()))

    count, version, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    call("cuInit", 0)
    call("cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise NoDevice("no GPU: none is visible")
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGet", ctypes.byref(device), 0)
    name, bus = ctypes.create_string_buffer(128), ctypes.create_string_buffer(32)
    call("cuDeviceGetName", name, 128, device)
    call("cuDeviceGetPCIBusId", bus, 32, device)
    size = ctypes.c_size_t()
    call("cuDeviceTotalMem_v2", ctypes.byref(size), device)
    facts = {"name": name.value.decode(), "bus": bus.value.decode(), "gpus": count.value,
             "bytes": size.value, "driver_cuda": "%d.%d" % (version.value // 1000,
                                                            version.value % 1000 // 10)}
    for key, number in (("multiprocessors", 16), ("clock_khz", 13), ("memory_clock_khz", 36),
                        ("l2_bytes", 38), ("major", 75), ("minor", 76)):
        value = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
        facts[key] = value.value
    return facts


class Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong),
                ("used", ctypes.c_ulonglong)]


class Watch:
    """with Watch(bus) as seen: ...; seen.facts() afterwards. Reads what NVML gives, every 20 ms;
    where it gives nothing the facts are None. Sets nothing."""

    def __init__(self, bus, every=0.02):
        self.handle, self.every, self.over = None, every, threading.Event()
        self.used, self.clocks, self.loads, self.watts = [], [], [], []
        try:
            self.nvml = ctypes.CDLL("libnvidia-ml.so.1")
            handle = ctypes.c_void_p()
            if bus and self.nvml.nvmlInit_v2() == 0 and self.nvml.nvmlDeviceGetHandleByPciBusId_v2(
                    bus.encode(), ctypes.byref(handle)) == 0:
                self.handle = handle
        except (OSError, AttributeError):
            pass

    def read(self):
        memory, number = Memory(), ctypes.c_uint()
        pair = (ctypes.c_uint * 2)()
        if self.nvml.nvmlDeviceGetMemoryInfo(self.handle, ctypes.byref(memory)) == 0:
            self.used.append(memory.used)
        if self.nvml.nvmlDeviceGetClockInfo(self.handle, 1, ctypes.byref(number)) == 0:  # SM
            self.clocks.append(number.value)
        if self.nvml.nvmlDeviceGetUtilizationRates(self.handle, pair) == 0:
            self.loads.append(pair[0])
        if self.nvml.nvmlDeviceGetPowerUsage(self.handle, ctypes.byref(number)) == 0:
            self.watts.append(number.value / 1000)

    def loop(self):
        while not self.over.is_set():
            self.read()
            self.over.wait(self.every)

    def __enter__(self):
        if self.handle:
            self.read()
            self.thread = threading.Thread(target=self.loop, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *_):
        if self.handle:
            self.over.set()
            self.thread.join()

    def facts(self):
        """Bytes that came on top of what was in use at the start; medians of clock (MHz), load (% of
        time with a kernel) and power (W)."""
        middle = lambda values: statistics.median(values) if values else None
        return {"gpu_bytes": max(self.used) - self.used[0] if self.used else None,
                "clock_mhz": middle(self.clocks), "most_clock_mhz": max(self.clocks, default=None),
                "load_percent": middle(self.loads), "watts": middle(self.watts)}


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
