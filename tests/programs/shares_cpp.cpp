// Four ways in which C++ calls, with 40, 30, 20 and 10 % of the CPU time (method: shares.c).
//
// True stacks (demangled; `...` are frames of the standard library):
//   main; one_round(); by_virtual(unsigned long); Disc<double>::area(unsigned long) const                     40 %
//   main; one_round(); by_lambda(unsigned long); ...; by_lambda(unsigned long)::{lambda(unsigned long)#1}::operator()... 30 %
//   main; one_round(); by_sort(unsigned long); ... std::sort ...; less_by_work(unsigned int, unsigned int)    20 %
//   main; one_round(); by_exception(unsigned long); thrower<int>(int); ...                                    10 %
#include "common.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

namespace {

uint64_t used[4];
uint64_t sort_end;
volatile unsigned sink;

} // namespace

struct Shape {
	virtual ~Shape() = default;
	virtual double area(uint64_t end) const = 0;
};

template <typename T> struct Disc : Shape {
	T radius = 2;
	KEEP double area(uint64_t end) const override
	{
		work_until(end);
		NO_TAIL_CALL();
		return radius * radius * 3;
	}
};

template <typename T> struct Square : Shape {
	T side = 2;
	KEEP double area(uint64_t) const override { return side * side; }
};

KEEP void by_virtual(uint64_t end)
{
	std::unique_ptr<Shape> shapes[2] = { std::make_unique<Square<float>>(), std::make_unique<Disc<double>>() };

	for (auto &shape : shapes)
		sink = static_cast<unsigned>(shape->area(end));
}

KEEP void by_lambda(uint64_t end)
{
	// type-erased, so that the call stays a call
	std::function<void(uint64_t)> f = [](uint64_t until) __attribute__((noinline))
	{
		work_until(until);
		NO_TAIL_CALL();
	};

	f(end);
	NO_TAIL_CALL();
}

// Almost free once the part is over: a sort cannot stop in the middle.
KEEP bool less_by_work(unsigned a, unsigned b)
{
	if (thread_ns() < sort_end)
		work();
	return a < b;
}

KEEP void by_sort(uint64_t end)
{
	std::vector<unsigned> v(16);

	sort_end = end;
	while (thread_ns() < end) {
		for (unsigned i = 0; i < v.size(); i++)
			v[i] = i * 2654435761u;
		std::sort(v.begin(), v.end(), less_by_work);
	}
	sink = v[0];
}

template <typename T> KEEP void thrower(T value)
{
	work();
	if (value >= 0)
		throw std::runtime_error("as expected");
}

KEEP void by_exception(uint64_t end)
{
	while (thread_ns() < end) {
		try {
			thrower<int>(1);
		} catch (const std::runtime_error &) {
			sink = 1;
		}
	}
}

KEEP void one_round()
{
	uint64_t begin = thread_ns(), length = round_ns(), at = begin, next;

	by_sort(begin + length * 2 / 10);
	used[2] += (next = thread_ns()) - at;
	by_virtual(begin + length * 6 / 10);
	used[0] += (at = thread_ns()) - next;
	by_lambda(begin + length * 9 / 10);
	used[1] += (next = thread_ns()) - at;
	by_exception(begin + length);
	used[3] += thread_ns() - next;
}

int main(int argc, char **argv)
{
	struct run run = start(argc, argv);
	uint64_t total;

	while (running(&run))
		one_round();
	total = used[0] + used[1] + used[2] + used[3];
	truth("by_virtual", used[0], total);
	truth("by_lambda", used[1], total);
	truth("by_sort", used[2], total);
	truth("by_exception", used[3], total);
	return finish(&run);
}
