// Empties a container and gives its memory back now: clear() keeps a vector's, and so does assigning {} to
// it.
#pragma once

namespace hearth {

template <class Container>
void give_back(Container& container) {
  Container().swap(container);
}

}  // namespace hearth
