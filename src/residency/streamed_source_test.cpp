#include "residency/streamed_source.h"

#include <gtest/gtest.h>

TEST(StreamedSource, Placeholder) {}
