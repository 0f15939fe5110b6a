// A network of MobileNet's parts: built once (plan.cpp), then run without an allocation (run.cpp, blocks.cpp).
// Its maps are floats, or levels of 8 bits; what differs between them is in the kernels, and in how weights are packed.
#pragma once

#include <atomic>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels.h"
#include "pages.h"
#include "threads.h"

namespace mobilenetv2 {

// What the levels of a map stand for: (level - zero) x scale. Scale 0: the map is not rounded, it holds floats. In a network
// of floats all maps do.
struct Levels {
    float scale = 0;
    int zero = 0;
    bool raw() const { return scale == 0; }
};

// Weights as they come: a kernel (out, in, k, k) and a bias (out), row by row. Of levels: steps, the width of a step for each
// output channel, and the levels of the result. The clamp is that of the result itself, not of its levels.
template <typename T>
struct Weights {
    const typename Numbers<T>::Weight* kernel;
    const float* bias;
    int out_channels, in_channels;
    Clamp clamp;
    const float* steps = nullptr;
    Levels to{};
};

// A 3x3 depthwise convolution (channels, 1, 3, 3), and the pixels of zeros above and to the left of its map.
template <typename T>
struct Filter {
    Weights<T> weights;
    int stride, dilation;
    int pad_top, pad_left;
    int out_height, out_width;
};

// The first convolution, 3x3 at stride 2 from planes of three colours: floats, whatever its result is.
struct Stem {
    Weights<float> weights;
    int pad_top, pad_left;
    int out_height, out_width;
};

// A picture (3, height, width) of floats; or (height, width, 3) of bytes, whose values for the network stand in a table
// (3, 256).
struct Picture {
    const float* planes;
    const std::uint8_t* pixels = nullptr;
    const float* table = nullptr;
};

using ValueId = int;

template <typename T>
class Network {
  public:
    // Of pictures (3, height, width), by kernels that this processor runs.
    Network(int height, int width, int threads, const Kernels<T>& kernels = *all_kernels<T>().front());

    // Each adds a layer and returns its result. What does not fit is refused by std::invalid_argument.
    ValueId stem(const Stem&);
    // [1x1 or the stem] -> 3x3 depthwise -> 1x1 [+ the block's input]: the expanded map is never whole in memory.
    // in is not read where the stem is given.
    ValueId block(ValueId in, const std::optional<Weights<T>>& expand, const std::optional<Stem>& stem,
                  const Filter<T>&, const Weights<T>& project, bool shortcut);
    // bias: a (channels, 1, 1) map of floats instead of the weights' own, or -1.
    ValueId pointwise(ValueId in, const Weights<T>&, ValueId bias);
    // A map of floats enlarged to the size of another one, bilinear with the corners on the corners, and added to it.
    ValueId enlarge_on(ValueId in, ValueId on, Clamp, Levels to = {});
    // A 1x1 convolution of which only the mean over all pixels is kept, and a dense layer on that; (out, 1, 1). mean:
    // its levels.
    ValueId pooled(ValueId in, const Weights<T>&, const Weights<T>& dense, Levels mean = {});
    // The mean over all pixels; (channels, 1, 1).
    ValueId mean(ValueId in, Levels to = {});

    // What `run` writes of a value, which holds floats: pixel by pixel (height, width, channels), or plane by plane.
    enum class Order { PIXELS, PLANES };
    void output(ValueId, Order);

    // Plans the memory; nothing can be added after it.
    void finish();

    // pictures: `count`, one behind the other. outputs: of each output one array for all pictures, one after the other.
    // Safe from many threads; one run at a time.
    void run(const Picture& pictures, int count, float* const* outputs);

    // Of one picture. Several pictures take as much for each thread.
    std::size_t arena_bytes() const { return together_.bytes; }
    bool is_finished() const { return finished_; }
    int height() const { return height_; }
    int width() const { return width_; }
    std::size_t outputs() const { return outputs_.size(); }
    // Of one picture.
    std::size_t output_size(std::size_t index) const;

  private:
    using Weight = typename Numbers<T>::Weight;
    using Sum = typename Numbers<T>::Sum;

    struct Map {
        int channels = 0, blocks = 0, height = 0, width = 0;
        Levels levels{};
        bool by_rows = false;  // rows of channel blocks of pixels; otherwise channel blocks of whole images
        ValueId id = 0;
        std::size_t size() const { return static_cast<std::size_t>(blocks) * height * width * LANES; }
        std::size_t bytes() const { return size() * (levels.raw() ? sizeof(float) : sizeof(T)); }
        std::ptrdiff_t row() const { return static_cast<std::ptrdiff_t>(by_rows ? blocks : 1) * width * LANES; }
        std::ptrdiff_t block() const { return static_cast<std::ptrdiff_t>(by_rows ? 1 : height) * width * LANES; }
    };
    template <typename N>
    struct Packed {
        std::span<typename Numbers<N>::Weight> values;
        std::vector<float> bias, scale;
        int in_blocks = 0, out_blocks = 0;
        Clamp clamp{};
        float shortcut = 1;
        Panels<N> view() const {
            return {values.data(), bias.data(), scale.data(), in_blocks, out_blocks, clamp, shortcut};
        }
    };
    struct Geometry {
        int stride, dilation, pad_top, pad_left, out_height, out_width, in_height, in_width;
        int padded_width() const;
    };
    // One block, or the stem alone. Offsets of its working memory are bytes behind that of the thread.
    struct Stage {
        enum class First { NONE, EXPAND, STEM } makes = First::NONE;  // what makes the map that is filtered
        bool shortcut = false;
        Packed<float> stem{};
        Packed<T> expand{}, project{};
        std::vector<FilterBlock<T>> filter{};
        // What is filtered lies `lanes` channels side by side, that many of them in so many groups; `blocks` there are.
        int blocks = 0, groups = 0, lanes = LANES;
        T zero{};        // what the filtered map has around it
        Clamp filter_clamp{};
        Geometry geometry{}, stem_geometry{};
        int band_rows = 1;  // by rows: rows of the result that are made together
        std::ptrdiff_t image_group = 0;  // by image: of one group of a panel's padded images
        std::size_t ring = 0, filtered = 0, read = 0;
        const FilterBlock<T>* filter_of(int group) const { return &filter[group * (lanes / LANES)]; }
        int ring_rows() const { return (band_rows - 1) * geometry.stride + 2 * geometry.dilation + 1; }
        std::ptrdiff_t padded() const { return static_cast<std::ptrdiff_t>(geometry.padded_width()) * lanes; }
        // Of the rows of pictures that one row of the stem's result is made of.
        std::ptrdiff_t stem_floats() const;
    };
    enum class Kind { STEM, BLOCKS_BY_ROWS, BLOCK_BY_IMAGE, POINTWISE, POOLED, MEAN, ENLARGE };
    struct Step {
        Kind kind;
        ValueId in = -1, out = -1;
        ValueId other = -1;              // the bias of POINTWISE, what ENLARGE adds to
        const Packed<T>* then = nullptr;  // the weights that are read after this step
        std::vector<Stage> stages{};     // of blocks by rows several, each on the rows of the one before it
        Packed<T> weights{}, dense{};    // of POINTWISE and POOLED; dense: panel by panel of the weights' results
        int groups = 0;                  // of POOLED: panels are divided into so many, each with sums of its own
        float scale = 1, offset = 0;     // of the mean, of what is enlarged, of the bias that is a map
        Clamp clamp{};                   // of ENLARGE
        std::vector<int> left{}, right{};  // of ENLARGE: the pixels that each lies between
        std::vector<float> across{};
        std::vector<int> padded_pixels{};  // by image: where each pixel lies in the padded scratch
        // In bytes.
        std::size_t shared_scratch = 0, thread_scratch = 0;
    };
    // Rows of a map, or some of them in working memory: row y is at `at + (y - first) * row`.
    template <typename N>
    struct Rows {
        N* at;
        std::ptrdiff_t row, block;
        int first;
        N* of(int y) const { return at + (y - first) * row; }
    };
    // Where everything lies in an arena for so many threads: each map, and of each step what it needs beside maps.
    struct Layout {
        int threads = 0;
        std::size_t bytes = 0;
        std::vector<std::size_t> maps{}, scratch{};
    };
    // Threads that work on one picture: all, or one alone where there are pictures for each.
    struct Crew {
        const Layout& layout;
        const int size = layout.threads;
        std::byte* const arena;
        // Of each step: how many rows or panels threads have taken, of each pair of threads or in each of two phases.
        std::vector<std::atomic<int>> claims;
        Barrier barrier;
        Crew(const Layout& of, std::byte* memory, std::size_t count)
            : layout(of), arena(memory), claims(count), barrier(of.threads) {}
        void begin() {
            for (auto& each : claims) each.store(0, std::memory_order_relaxed);
        }
    };
    template <typename N>
    static Rows<N> rows_of(const Crew& crew, const Map& map) {
        return {reinterpret_cast<N*>(crew.arena + crew.layout.maps[map.id]), map.row(), map.block(), 0};
    }
    // What one thread knows of the step that it is at. thread: of its crew.
    struct Worker {
        int thread;
        Crew& crew;
        const Picture& picture;
        std::atomic<int>* claims;     // of the step
        std::byte *shared, *scratch;  // the step's, and its own
        std::vector<std::vector<int>>& held;

        template <typename N>
        N* at(std::size_t offset) const {
            return reinterpret_cast<N*>(scratch + offset);
        }
        template <typename N = T>
        Rows<N> rows(const Map& map) const {
            return rows_of<N>(crew, map);
        }
        int claim(int which) { return claims[which].fetch_add(1, std::memory_order_relaxed); }
        // Every second thread comes from below.
        bool descends() const { return thread % 2 == 1; }
    };

    const Map& map(ValueId) const;
    // Whether it holds floats among levels.
    static bool is_raw(const Map& map) { return std::is_same_v<T, Level> && map.levels.raw(); }
    void check_stem(const Stem&) const;
    void check_levels(const Map&) const;
    Stage stem_stage(const Stem&, Levels to);
    Stage stage_of(const Map& in, const std::optional<Weights<T>>& expand, const std::optional<Stem>&, const Filter<T>&,
                   const Weights<T>& project, bool shortcut);
    ValueId add(Step&&, int channels, int height, int width, Levels);
    void join_blocks();
    void plan_scratch();
    Layout layout_for(int threads) const;

    void work(Crew&, int thread, std::vector<std::vector<int>>& held, const Picture&);
    void run_stem(const Step&, Worker&);
    void run_by_rows(const Step&, Worker&);
    // raw: where they go if they are floats among levels.
    void make_rows(const Step&, int stage, Worker&, int first_row, int last_row, Rows<T> to, const Rows<float>* raw) const;
    void read_stem_rows(const Stage&, const Picture&, int row, float* to) const;
    void run_stem_row(const Stage&, int panel, const float* read, Run<T> out, bool wide) const;
    // The groups that a panel's blocks are in.
    Panel groups_of(Panel) const;
    // Blocks of a row of a map to where they are filtered.
    void widen(Run<const T> row, int blocks, Panel groups, int pixels, Run<T> out) const;
    void run_by_image(const Step&, Worker&);
    void run_pointwise(const Step&, Worker&);
    void run_enlarge(const Step&, Worker&);
    void run_mean(const Step&, Worker&);
    void run_pooled(const Step&, Worker&);
    Ahead ahead(const Packed<T>&, int panel) const;
    Ahead after(const Worker&, const Packed<T>&, int panel, const Packed<T>* then) const;
    void write_outputs(const Crew&, float* const* outputs, int picture) const;

    const int height_, width_;
    const Kernels<T>& kernels_;
    std::vector<Map> maps_;
    std::vector<Step> steps_;
    std::vector<std::pair<ValueId, Order>> outputs_;
    const std::size_t claims_per_step_;
    // All threads, and each alone where there are several.
    Layout together_, alone_;
    std::deque<Crew> crews_;
    // Of each thread and stage: the rows that its ring holds.
    std::vector<std::vector<std::vector<int>>> held_;
    Pages pages_;
    bool finished_ = false;
    std::mutex running_;
    Team team_;
};

}  // namespace mobilenetv2
