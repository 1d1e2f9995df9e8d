-- What 19-compile.lua requires: something to parse, and a little work when it is run.
local module = {}
function module.f1(a, b) return { a, b, 1, x = a } end
function module.f2(a, b) return { a, b, 2, x = a } end
function module.f3(a, b) return { a, b, 3, x = a } end
function module.f4(a, b) return { a, b, 4, x = a } end
function module.f5(a, b) return { a, b, 5, x = a } end
function module.f6(a, b) return { a, b, 6, x = a } end
function module.f7(a, b) return { a, b, 7, x = a } end
function module.f8(a, b) return { a, b, 8, x = a } end
function module.f9(a, b) return { a, b, 9, x = a } end
function module.f10(a, b) return { a, b, 10, x = a } end
function module.f11(a, b) return { a, b, 11, x = a } end
function module.f12(a, b) return { a, b, 12, x = a } end
function module.f13(a, b) return { a, b, 13, x = a } end
function module.f14(a, b) return { a, b, 14, x = a } end
function module.f15(a, b) return { a, b, 15, x = a } end
function module.f16(a, b) return { a, b, 16, x = a } end
function module.f17(a, b) return { a, b, 17, x = a } end
function module.f18(a, b) return { a, b, 18, x = a } end
function module.f19(a, b) return { a, b, 19, x = a } end
function module.f20(a, b) return { a, b, 20, x = a } end
function module.f21(a, b) return { a, b, 21, x = a } end
function module.f22(a, b) return { a, b, 22, x = a } end
function module.f23(a, b) return { a, b, 23, x = a } end
function module.f24(a, b) return { a, b, 24, x = a } end
function module.f25(a, b) return { a, b, 25, x = a } end
function module.f26(a, b) return { a, b, 26, x = a } end
function module.f27(a, b) return { a, b, 27, x = a } end
function module.f28(a, b) return { a, b, 28, x = a } end
function module.f29(a, b) return { a, b, 29, x = a } end
function module.f30(a, b) return { a, b, 30, x = a } end
function module.f31(a, b) return { a, b, 31, x = a } end
function module.f32(a, b) return { a, b, 32, x = a } end
function module.f33(a, b) return { a, b, 33, x = a } end
function module.f34(a, b) return { a, b, 34, x = a } end
function module.f35(a, b) return { a, b, 35, x = a } end
function module.f36(a, b) return { a, b, 36, x = a } end
function module.f37(a, b) return { a, b, 37, x = a } end
function module.f38(a, b) return { a, b, 38, x = a } end
function module.f39(a, b) return { a, b, 39, x = a } end
function module.f40(a, b) return { a, b, 40, x = a } end
function module.f41(a, b) return { a, b, 41, x = a } end
function module.f42(a, b) return { a, b, 42, x = a } end
function module.f43(a, b) return { a, b, 43, x = a } end
function module.f44(a, b) return { a, b, 44, x = a } end
function module.f45(a, b) return { a, b, 45, x = a } end
function module.f46(a, b) return { a, b, 46, x = a } end
function module.f47(a, b) return { a, b, 47, x = a } end
function module.f48(a, b) return { a, b, 48, x = a } end
function module.f49(a, b) return { a, b, 49, x = a } end
function module.f50(a, b) return { a, b, 50, x = a } end
function module.f51(a, b) return { a, b, 51, x = a } end
function module.f52(a, b) return { a, b, 52, x = a } end
function module.f53(a, b) return { a, b, 53, x = a } end
function module.f54(a, b) return { a, b, 54, x = a } end
function module.f55(a, b) return { a, b, 55, x = a } end
function module.f56(a, b) return { a, b, 56, x = a } end
function module.f57(a, b) return { a, b, 57, x = a } end
function module.f58(a, b) return { a, b, 58, x = a } end
function module.f59(a, b) return { a, b, 59, x = a } end
function module.f60(a, b) return { a, b, 60, x = a } end

local function prepare()
    local x = 0
    for i = 1, 2000 do x = (x + i * 3) % 1021 end
    return x
end

module.answer = prepare() -- @prepare
return module
