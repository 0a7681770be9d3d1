"""What `decode.cpp` is told: its structures, field for field."""

from ctypes import POINTER, Structure, c_float, c_int64, c_void_p

from torch import Tensor


def address(part: Tensor | None) -> int | None:
    assert part is None or part.is_contiguous()
    return None if part is None else part.data_ptr()


class Matrix(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("outputs", c_int64), ("inputs", c_int64), ("scales", c_void_p)]

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, scales: Tensor | None = None) -> "Matrix":
        return cls(address(weight), address(bias), *weight.shape, address(scales))


RMS, LAYER = 1, 2  # kinds of norms; 0 is none


class Norm(Structure):
    _fields_ = [("kind", c_int64), ("weight", c_void_p), ("bias", c_void_p), ("eps", c_float), ("offset", c_float)]


class Sublayer(Structure):
    _fields_ = [("norm_in", Norm), ("norm_out", Norm), ("norm_sum", Norm)]


class Turn(Structure):
    _fields_ = [("frequencies", c_void_p), ("pairs", c_int64), ("grown", c_float)]


class View(Structure):
    _fields_ = [("left", c_int64), ("size", c_int64), ("positions", c_void_p), ("documents", c_void_p)]


class Layer(Structure):
    _fields_ = [
        *((name, Sublayer) for name in ("attention", "mlp")),
        *((name, Matrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        *((name, Norm) for name in ("q_norm", "k_norm")),
        *((name, c_void_p) for name in ("sinks", "keys", "values")),
        *((name, c_int64) for name in ("heads", "kv_heads", "head_size", "norms_over_width", "turn", "view", "activation")),
        *((name, c_float) for name in ("scale", "soft_cap", "limit", "up_offset")),
    ]


class Trunk(Structure):
    _fields_ = [
        ("layers", POINTER(Layer)), ("turns", POINTER(Turn)), ("views", POINTER(View)),
        ("depth", c_int64), ("turn_count", c_int64), ("view_count", c_int64), ("width", c_int64),
        ("norm_final", Norm),
    ]  # fmt: skip


class Rows(Structure):
    _fields_ = [("slots", c_void_p), ("numbers", c_void_p), ("positions", c_void_p), ("documents", c_void_p), ("count", c_int64)]
